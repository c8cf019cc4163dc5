package testbed

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	embedded "github.com/fergusstrange/embedded-postgres"

	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

// embeddedVersion is what is downloaded when the machine has no Postgres.
const embeddedVersion = embedded.V18

// FindBinaries returns the folder with postgres and initdb: $PG_BIN, else that of initdb on PATH, else the newest of
// /usr/lib/postgresql/*/bin, else binaries downloaded once to the user's cache folder.
func FindBinaries(ctx context.Context) (string, error) {
	if dir := os.Getenv("PG_BIN"); dir != "" {
		if !hasServer(dir) {
			return "", fmt.Errorf("PG_BIN is %s, which holds no postgres and initdb: point it at the bin folder of a Postgres server", dir)
		}
		return dir, nil
	}
	if dir, ok := onPath(); ok {
		return dir, nil
	}
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(installed, func(a, b string) int { return major(b) - major(a) })
	for _, dir := range installed {
		if hasServer(dir) {
			return dir, nil
		}
	}
	return downloaded(ctx)
}

// FindBinariesOf returns the bin folder of a Postgres of this major version: $PG_BIN if it is one, else that of initdb on PATH, else
// /usr/lib/postgresql/<major>/bin, else one in the cache, where scripts/prerequisites puts the second version that the tests want. It downloads
// nothing: what no place has is an error that says what to do.
func FindBinariesOf(ctx context.Context, major int) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	cached, err := filepath.Glob(filepath.Join(cache, "*", "bin"))
	if err != nil {
		return "", err
	}
	places := []string{os.Getenv("PG_BIN")}
	if dir, ok := onPath(); ok {
		places = append(places, dir)
	}
	places = append(places, fmt.Sprintf("/usr/lib/postgresql/%d/bin", major))
	var found []string // what each place has instead
	for _, dir := range append(places, cached...) {
		if dir == "" || !hasServer(dir) {
			continue
		}
		has, err := majorOf(ctx, dir)
		switch {
		case err != nil:
			found = append(found, err.Error())
		case has == major:
			return dir, nil
		default:
			found = append(found, fmt.Sprintf("%d in %s", has, dir))
		}
	}
	return "", fmt.Errorf("there is no Postgres %d here: run scripts/prerequisites, which fetches the versions that the tests want, or install it, or set PG_BIN to its bin folder; found: %s",
		major, cmp.Or(strings.Join(found, ", "), "none"))
}

var versionText = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

// majorOf asks the server itself, so that one which can't be run, for want of a library, doesn't count.
func majorOf(ctx context.Context, dir string) (int, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s/postgres --version: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s/postgres --version: %q names no version", dir, bytes.TrimSpace(out))
	}
	return strconv.Atoi(string(m[1]))
}

// onPath follows links to the real folder: postgres finds its share folder from where its binary lies.
func onPath() (string, bool) {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", false
	}
	real, err := filepath.EvalSymlinks(initdb)
	if err != nil {
		return "", false
	}
	dir := filepath.Dir(real)
	return dir, hasServer(dir)
}

func hasServer(dir string) bool {
	for _, program := range []string{"postgres", "initdb"} {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

// major is the number in /usr/lib/postgresql/<number>/bin.
func major(bin string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	if err != nil {
		return 0
	}
	return n
}

// downloaded unpacks the embedded-postgres library's binaries into the cache, once. The library only unpacks on the way to a server of its
// own: whether that one starts (as root it does not) is of no matter as long as the binaries are there. They are renamed into place as
// a whole, so an interrupted download leaves nothing that looks finished.
func downloaded(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, string(embeddedVersion))
	if bin := filepath.Join(final, "bin"); hasServer(bin) {
		return bin, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("cache for postgres: %w", err)
	}
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", fmt.Errorf("cache for postgres: %w", err)
	}
	defer os.RemoveAll(work)
	port, err := loopback.FreePort()
	if err != nil {
		return "", err
	}
	unpacked := filepath.Join(work, "server")
	server := embedded.NewDatabase(embedded.DefaultConfig().Version(embeddedVersion).Port(uint32(port)).
		CachePath(work).BinariesPath(unpacked).RuntimePath(filepath.Join(work, "runtime")).Logger(nil))
	startErr := server.Start()
	if startErr == nil {
		startErr = server.Stop()
	}
	http.DefaultClient.CloseIdleConnections() // which the library leaves open
	if !hasServer(filepath.Join(unpacked, "bin")) {
		return "", fmt.Errorf("there is no Postgres here and it can't be downloaded: install the postgresql package or set PG_BIN to a bin folder: %w", startErr)
	}
	if err := os.Rename(unpacked, final); err != nil && !hasServer(filepath.Join(final, "bin")) { // or another process was quicker
		return "", fmt.Errorf("cache for postgres: %w", err)
	}
	return filepath.Join(final, "bin"), nil
}

// cacheDir is one that the server's account can read: root's own cache is closed to others.
func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/trickle/postgres", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache for postgres: %w", err)
	}
	return filepath.Join(dir, "trickle", "postgres"), nil
}
