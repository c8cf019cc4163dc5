// Package s3 runs a real S3-compatible server for tests: Versity's gateway over a folder, which checks the signature of every request.
//
// It decides where the server comes from (a cache folder that scripts/prerequisites builds it into, at the version that the file version pins) and how a
// throw-away one is set up. What always holds: nothing is built or downloaded here; a server that Start returned answers on a free loopback port, has the
// buckets that were asked for, keeps what is in them through Kill and Restart, and dies with the process that started it; Stop removes it all. What is
// missing is an error that says what to run.
package s3

import (
	"context"
	_ "embed" // the version
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

//go:embed version
var version string

// The account that every server has, and the region that it says it is in.
const (
	AccessKey = "trickle-test"
	SecretKey = "not-a-secret-at-all"
	Region    = "us-east-1"
)

// Server is one gateway.
type Server struct {
	*child.Server
	binary string
	dir    string
	port   int
}

// Start starts a server with these buckets. The context bounds the start, not the server's life.
func Start(ctx context.Context, buckets ...string) (*Server, error) {
	binary, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "trickle-s3-")
	if err != nil {
		return nil, fmt.Errorf("folder for s3: %w", err)
	}
	s := &Server{binary: binary, dir: dir}
	for _, b := range append(buckets, "") {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, "buckets", b), 0o750), os.MkdirAll(filepath.Join(dir, "metadata"), 0o750))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("folders for s3: %w", err), os.RemoveAll(dir))
	}
	s.Server = child.NewServer(child.Plan{Name: "s3", Dir: dir, Start: s.launch, Ready: s.ready, Quit: syscall.SIGTERM, Grace: 5 * time.Second})
	err = loopback.Claim(func() ([]int, error) {
		var err error
		if s.port, err = loopback.FreePort(); err != nil {
			return nil, fmt.Errorf("port for s3: %w", err)
		}
		return []int{s.port}, s.Restart(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *Server) launch(log *os.File) (*child.Process, error) {
	cmd := exec.Command(s.binary, "--port", loopback.Address(s.port), "--region", Region, "--quiet",
		"posix", "--sidecar", filepath.Join(s.dir, "metadata"), filepath.Join(s.dir, "buckets")) // not every file system has the attributes that it would use
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+AccessKey, "ROOT_SECRET_ACCESS_KEY="+SecretKey)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	return child.Start("s3", cmd, syscall.SIGKILL)
}

// ready asks without credentials, which is refused by a server that is up.
func (s *Server) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback.Address(s.port)+"/", nil)
	if err != nil {
		return err
	}
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// URL names a bucket as gocloud.dev/blob wants it, with further settings for the query. The credentials are to be in the environment: see Environ.
func (s *Server) URL(bucket string, settings url.Values) string {
	q := url.Values{"region": {Region}, "endpoint": {"http://" + loopback.Address(s.port)}, "use_path_style": {"true"}}
	for k, v := range settings {
		q[k] = v
	}
	return "s3://" + bucket + "?" + q.Encode()
}

// File is where the server keeps an object, for whoever wants to damage it.
func (s *Server) File(bucket, key string) string {
	return filepath.Join(s.dir, "buckets", bucket, filepath.FromSlash(key))
}

// Environ are the variables that S3's client takes the credentials from.
func Environ() map[string]string {
	return map[string]string{"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey, "AWS_EC2_METADATA_DISABLED": "true"}
}

// find looks where fetch_s3 in scripts/prerequisites puts it.
func find() (string, error) {
	cache := "/var/cache"
	if os.Geteuid() != 0 {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("cache for s3: %w", err)
		}
	}
	binary := filepath.Join(cache, "trickle", "s3", "versitygw-"+strings.TrimSpace(version))
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("the S3 server is not here (%w): run make test, or scripts/prerequisites alone, which builds it", err)
	}
	return binary, nil
}
