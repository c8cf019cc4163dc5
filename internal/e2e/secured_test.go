package e2e

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/pki"
)

// Every command works where nothing is without TLS and a password, with the passwords in files, and none of them prints one.
func TestEveryConnectionSecured(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "ca")
	pair := ca.Issue(t, pki.Request{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}})
	files := map[string][]byte{"pg_hba.conf": []byte("local all all trust\nhost all postgres 127.0.0.1/32 trust\nhostssl all shop 127.0.0.1/32 scram-sha-256\n")}
	for name, path := range map[string]string{"server.pem": pair.CertFile, "server.key": pair.KeyFile} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	d := newDesk(t, pgtest.Server(t, testbed.Options{
		Settings: map[string]string{"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}, Files: files,
	}))
	d.src.exec(t, `CREATE ROLE shop LOGIN SUPERUSER PASSWORD 'hidden-pg'`)
	cluster, err := kfake.NewCluster(kfake.TLS(ca.Server(t, pair)), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "trickle", "hidden-kafka"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	_, port, err := net.SplitHostPort(d.server.Address())
	if err != nil {
		t.Fatal(err)
	}
	services := ""
	for name, side := range map[string]database{"source": d.src, "replica": d.dst} {
		services += fmt.Sprintf("[%s]\nhost=localhost\nport=%s\ndbname=%s\nuser=shop\nsslmode=verify-full\nsslrootcert=%s\n\n", name, port, value[string](t, side, `SELECT current_database()`), ca.File)
	}
	env := []string{
		"PGSERVICEFILE=" + writeFile(t, "services", services), "PGPASSFILE=" + writeFile(t, "passfile", "localhost:*:*:shop:hidden-pg\n"),
		"TRICKLE_SOURCE_DSN=service=source", "TRICKLE_REPLICA_DSN=service=replica", "TRICKLE_POLICY=" + d.policy,
		"TRICKLE_BROKERS=" + strings.Join(cluster.ListenAddrs(), ", "), "TRICKLE_KAFKA_CA_FILE=" + ca.File,
		"TRICKLE_KAFKA_SASL_MECHANISM=scram-sha-512", "TRICKLE_KAFKA_SASL_USER=trickle", "TRICKLE_KAFKA_SASL_PASSWORD_FILE=" + writeFile(t, "kafka", "hidden-kafka\n"),
	}
	d.dst.exec(t, `DELETE FROM t WHERE id = 7`)
	publisher := start(t, trickle("run", "--listen", "", "--log-level", "debug").with(env...))
	detector := start(t, trickleConsumer("run", "--listen", "", "--log-level", "debug").with(env...))
	d.corrected("public.t")
	printed := ""
	for _, c := range []command{trickle("status"), trickle("tap", "--from-start"), trickle("diff"), trickleConsumer("status"), trickleConsumer("brake")} {
		code, stdout, stderr := run(t, c.with(env...))
		if code != 0 || stdout == "" {
			t.Errorf("%s %v: exit status %d, %s", c.program, c.args, code, stderr)
		}
		printed += stdout + stderr
	}
	for _, p := range []*process{publisher, detector} {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s: exit status %d", p.name, code)
		}
		printed += p.stdout.String() + p.stderr.String()
	}

	// The same with wrong passwords, in the environment and in a DSN.
	wrong := slices.Concat(env, []string{"TRICKLE_KAFKA_SASL_PASSWORD_FILE=", "TRICKLE_KAFKA_SASL_PASSWORD=hidden-guess"})
	code, _, stderr := run(t, trickle("tap", "--from-start").with(wrong...))
	if code != 2 || !strings.Contains(stderr, "TRICKLE_KAFKA_SASL_") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
	printed += stderr
	for _, dsn := range []string{"service=source password=hidden-guess", "postgres://shop:hidden-guess@localhost:" + port + "/none", "postgres://shop:hidden-guess@localhost:none/x"} {
		code, stdout, stderr := run(t, trickle("diff", "--source", dsn, "--log-level", "debug").with(env...))
		if code != 2 || !strings.Contains(stderr, "--source") {
			t.Errorf("exit status %d: %s", code, stderr)
		}
		printed += stdout + stderr
	}
	if strings.Contains(printed, "hidden-") {
		for line := range strings.Lines(printed) {
			if strings.Contains(line, "hidden-") {
				t.Errorf("a password is printed: %s", line)
			}
		}
	}
}
