package docs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const database = "shop"

// rig is what all documents share: two servers, and the SQL of the quick start, with which it sets up its databases for the others too.
type rig struct {
	source, replica *testbed.Postgres
	postgres        string // the folder with its programs
	tools           string
	setup           []block // the quick start's SQL, in its order
	databases       bool    // are there
}

func newRig(t *testing.T, docs []document) *rig {
	t.Helper()
	r := newTools(t)
	r.source, r.replica = pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	for _, d := range docs {
		for _, b := range d.blocks {
			if _, is := b.marked("setup"); is && d.path == quickstart {
				r.setup = append(r.setup, b)
			}
		}
	}
	if len(r.setup) < 3 {
		t.Fatalf("%s has %d blocks marked as setup, with which the databases of the other documents are made", quickstart, len(r.setup))
	}
	return r
}

// newTools is a rig without servers.
func newTools(t *testing.T) *rig {
	t.Helper()
	postgres, err := testbed.FindBinaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &rig{postgres: postgres, tools: standIns(t, tools())}
}

const quickstart = "docs/quickstart.md"

// renew gives the next document databases of its own. One that makes the role itself gets the tables alone.
func (r *rig) renew(ctx context.Context, makesRole bool) error {
	for _, side := range []*testbed.Postgres{r.replica, r.source} {
		if r.databases {
			if err := side.DropDatabase(ctx, database); err != nil {
				return err
			}
		}
		// What the role was granted on parameters outlives the database.
		err := r.sql(ctx, side, "postgres", "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trickle') THEN DROP OWNED BY trickle; DROP ROLE trickle; END IF; END $$")
		if err != nil {
			return err
		}
		if _, err := side.CreateDatabase(ctx, database); err != nil {
			return err
		}
	}
	r.databases = true
	for _, b := range r.setup {
		if what, _ := b.marked("setup"); makesRole && what == "role" {
			continue
		}
		for _, side := range r.sides(b) {
			if err := r.sql(ctx, side, database, r.local(b.text)); err != nil {
				return fmt.Errorf("%s:%d: %w", quickstart, b.line, err)
			}
		}
	}
	return await(ctx, patience, func() error {
		out, err := r.psql(ctx, r.replica.DSN(database), "SELECT count(*) || ' tables copied' FROM pg_subscription_rel WHERE srsubstate = 'r'")
		if err == nil && !strings.Contains(out, "2 tables copied") {
			err = errors.New("the first copy is not over: " + out)
		}
		return err
	})
}

// sides are the servers that an SQL block is for.
func (r *rig) sides(b block) []*testbed.Postgres {
	var out []*testbed.Postgres
	for _, word := range strings.Fields(b.language)[1:] {
		switch word {
		case "source":
			out = append(out, r.source)
		case "replica":
			out = append(out, r.replica)
		}
	}
	return out
}

// local puts the rig's servers in the place of those of the quick start.
func (r *rig) local(text string) string {
	_, source, _ := strings.Cut(r.source.Address(), ":")
	_, replica, _ := strings.Cut(r.replica.Address(), ":")
	return strings.NewReplacer("host=/tmp", "host=127.0.0.1", "-h /tmp", "-h 127.0.0.1", "5501", source, "5502", replica).Replace(text)
}

func (r *rig) sql(ctx context.Context, side *testbed.Postgres, database, text string) error {
	_, err := r.psql(ctx, side.DSN(database), text)
	return err
}

// psql runs SQL as a reader who pastes it would, and returns what it prints.
func (r *rig) psql(ctx context.Context, dsn, text string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.postgres, "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

// broker starts one for a document.
func broker(t *testing.T) string {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster.ListenAddrs()[0]
}

// await asks until the answer is yes; the error says why it is not.
func await(ctx context.Context, atMost time.Duration, ask func() error) error {
	deadline := time.Now().Add(atMost)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("within %s: %w", atMost, err)
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
	}
}

// link makes a file of the repository visible in a session's folder.
func link(t *testing.T, from, to string) {
	t.Helper()
	absolute, err := filepath.Abs(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(absolute, to); err != nil {
		t.Fatal(err)
	}
}
