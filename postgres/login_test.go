package postgres_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/pki"
	"github.com/trickle-verify/trickle/postgres"
)

const hba = `
local   all all                    trust
host    all postgres  127.0.0.1/32 trust
hostssl all shop      127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
hostssl all strict    127.0.0.1/32 scram-sha-256 clientcert=verify-ca
`

const password = "pa55-word"

func content(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secured is a server with TLS under the name localhost, and its port.
func secured(t *testing.T, ca *pki.Authority) (*testbed.Postgres, string) {
	t.Helper()
	pair := ca.Issue(t, pki.Request{Name: "server", Hosts: []string{"localhost"}})
	server := pgtest.Server(t, testbed.Options{
		Settings: map[string]string{"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "ssl_ca_file": "ca.pem"},
		Files: map[string][]byte{
			"server.pem": content(t, pair.CertFile), "server.key": content(t, pair.KeyFile), "ca.pem": content(t, ca.File), "pg_hba.conf": []byte(hba),
		},
	})
	c, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for _, sql := range []string{
		`CREATE ROLE shop LOGIN PASSWORD '` + password + `'`, `CREATE ROLE strict LOGIN PASSWORD '` + password + `'`, `CREATE ROLE certified LOGIN`,
		`GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC`,
	} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	return server, port
}

func TestConnectingOverTLS(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "ca"), pki.New(t, "other")
	_, port := secured(t, ca)
	certified, stranger := ca.Issue(t, pki.Request{Name: "certified"}), other.Issue(t, pki.Request{Name: "certified"})
	expired := ca.Issue(t, pki.Request{Name: "certified", Until: time.Now().Add(-time.Minute)})
	passfile := file(t, "passfile", "localhost:"+port+":postgres:shop:"+password+"\n")
	services := file(t, "services", "[shop]\nhost=localhost\nport="+port+"\ndbname=postgres\nuser=shop\npassword="+password+"\nsslmode=verify-full\nsslrootcert="+ca.File+"\n")
	full := "host=localhost port=" + port + " dbname=postgres sslmode=verify-full sslrootcert=" + ca.File
	for name, c := range map[string]struct {
		dsn  string
		want []string // parts of the error; none for success
	}{
		"verified":                {full + " user=shop password=" + password, nil},
		"verified, as an address": {"postgres://shop:" + password + "@localhost:" + port + "/postgres?sslmode=verify-full&sslrootcert=" + ca.File, nil},
		"a passfile":              {full + " user=shop passfile=" + passfile, nil},
		"a service":               {"service=shop servicefile=" + services, nil},
		"a service, and more":     {"service=shop servicefile=" + services + " application_name=x", nil},
		"a certificate":           {full + " user=certified sslcert=" + certified.CertFile + " sslkey=" + certified.KeyFile, nil},
		"both":                    {full + " user=strict password=" + password + " sslcert=" + certified.CertFile + " sslkey=" + certified.KeyFile, nil},

		"another name":             {strings.Replace(full, "localhost", "127.0.0.1", 1) + " user=shop password=" + password, []string{"for another name", "for the host in --source"}},
		"another authority":        {strings.Replace(full, ca.File, other.File, 1) + " user=shop password=" + password, []string{"sslrootcert in --source"}},
		"the system's authorities": {strings.Replace(full, ca.File, "system", 1) + " user=shop password=" + password, []string{"sslrootcert in --source"}},
		"no authority's file":      {strings.Replace(full, ca.File, "/none", 1) + " user=shop password=" + password, []string{"/none", "--source"}},
		"in clear":                 {strings.Replace(full, "verify-full", "disable", 1) + " user=shop password=" + password, []string{"refuses user", "no encryption", "sslmode and pg_hba.conf"}},
		"a wrong password":         {full + " user=shop password=guess-55", []string{"refuses user", "check the password, ssl"}},
		"no password":              {full + " user=shop passfile=/none", []string{"refuses user", "none was found (passfile, PGPASSFILE, .pgpass)"}},
		"no certificate":           {full + " user=certified", []string{"refuses user", "sslcert and sslkey if it wants a certificate"}},
		"another's certificate":    {full + " user=certified sslcert=" + stranger.CertFile + " sslkey=" + stranger.KeyFile, []string{"refuses user", "the certificate in sslcert"}},
		"an expired certificate":   {full + " user=certified sslcert=" + expired.CertFile + " sslkey=" + expired.KeyFile, []string{"check sslcert and sslkey in --source"}},
		"a certificate for another": {full + " user=strict password=" + password + " sslcert=" + stranger.CertFile + " sslkey=" + stranger.KeyFile,
			[]string{"refuses user", "the certificate in sslcert"}},
		"another's key":      {full + " user=certified sslcert=" + certified.CertFile + " sslkey=" + stranger.KeyFile, []string{"--source", "private key does not match"}},
		"no such service":    {"service=none servicefile=" + services, []string{"--source", "none"}},
		"no service file":    {"service=shop servicefile=/none", []string{"--source", "/none"}},
		"a DSN that is none": {full + " user=shop password=" + password + " sslmode=maybe", []string{"--source", "sslmode is invalid"}},
		"nothing":            {"", []string{"no source database given: set --source, to service=NAME"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, err := postgres.Open(t.Context(), c.dsn, postgres.Options{Role: "source", Setting: "--source"})
			if err == nil {
				defer pool.Close()
				_, err = postgres.Identify(t.Context(), pool)
			}
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it connects")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in: %v", want, err)
				}
			}
			if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, password) || strings.Contains(text, "guess-55") {
				t.Errorf("more than a line, or a password: %s", text)
			}
		})
	}
}

// With TLS 1.3 a server refuses a client's certificate after the client thinks that all went well, and may be gone before its reason is read.
func TestACertificateRefusedWithoutAWord(t *testing.T) {
	t.Parallel()
	ca := pki.New(t, "ca")
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	settings := ca.Server(t, ca.Issue(t, pki.Request{Name: "server", Hosts: []string{"localhost"}}))
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			sslRequest := make([]byte, 8)
			if _, err := io.ReadFull(c, sslRequest); err == nil {
				_, _ = c.Write([]byte("S"))
				_ = tls.Server(c, settings).HandshakeContext(t.Context())
			}
			_ = c.(*net.TCPConn).SetLinger(0) // a reset, which overtakes all that was sent
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); wait.Wait() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	pair := ca.Issue(t, pki.Request{Name: "shop"})
	dsn := "host=localhost port=" + port + " dbname=postgres user=shop sslmode=verify-full sslrootcert=" + ca.File
	for name, c := range map[string]struct{ dsn, want string }{
		"with a certificate":    {dsn + " sslcert=" + pair.CertFile + " sslkey=" + pair.KeyFile, "check sslcert and sslkey in --source"},
		"without a certificate": {dsn, "check host and port in --source"},
	} {
		pool, err := postgres.Open(t.Context(), c.dsn, postgres.Options{Role: "source", Setting: "--source"})
		if err == nil {
			pool.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

// Names and passwords come from where libpq would look for them; a server that has no TLS is told.
func TestSettingsOfLibpqAreUsed(t *testing.T) {
	ca := pki.New(t, "ca")
	_, port := secured(t, ca)
	home := t.TempDir()
	for name, text := range map[string]string{
		".pgpass":          "localhost:" + port + ":*:shop:" + password + "\n",
		".pg_service.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, dsn string
		env       map[string]string
	}{
		{"host and the like from the environment", "dbname=postgres", map[string]string{
			"PGHOST": "localhost", "PGPORT": port, "PGUSER": "shop", "PGPASSWORD": password, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": ca.File,
		}},
		{"PGPASSFILE", "host=localhost user=shop dbname=postgres port=" + port + " sslmode=verify-full sslrootcert=" + ca.File, map[string]string{
			"PGPASSFILE": file(t, "passfile", "*:*:*:*:"+password+"\n"),
		}},
		{".pgpass at home", "host=localhost user=shop dbname=postgres port=" + port + " sslmode=verify-full sslrootcert=" + ca.File, map[string]string{"HOME": home}},
		{"PGSERVICEFILE", "service=shop", map[string]string{
			"PGSERVICEFILE": file(t, "services", fmt.Sprintf("[shop]\nhost=localhost\nport=%s\ndbname=postgres\nuser=shop\npassword=%s\nsslmode=verify-full\nsslrootcert=%s\n", port, password, ca.File)),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for key, value := range c.env {
				t.Setenv(key, value)
			}
			pool, err := postgres.Open(t.Context(), c.dsn, postgres.Options{Role: "source", Setting: "--source"})
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			var encrypted bool
			if err := pool.QueryRow(t.Context(), `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&encrypted); err != nil || !encrypted {
				t.Errorf("encrypted: %t, %v", encrypted, err)
			}
		})
	}
	t.Run("a server without TLS", func(t *testing.T) {
		dsn := pgtest.Database(t)
		_, err := postgres.Open(t.Context(), strings.Replace(dsn, "sslmode=disable", "sslmode=require", 1), postgres.Options{Role: "source", Setting: "--source"})
		if err == nil || !strings.Contains(err.Error(), "check sslmode and the rest of --source") {
			t.Errorf("got %v", err)
		}
	})
}

// A pool that finds its server gone later on says it in the same words as one that never found it.
func TestLaterLossInTheSameWords(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	o := postgres.Options{Role: "replica", Setting: "--replica or TRICKLE_REPLICA_DSN"}
	dsn := "postgres://shop@" + address + "/orders?sslmode=prefer"
	_, want := postgres.Open(t.Context(), dsn, o)
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	got := postgres.Explain(fmt.Errorf("reading the ledger: %w", pool.Ping(t.Context())), o)
	if want == nil || got == nil || got.Error() != want.Error() || !strings.Contains(got.Error(), `replica database "orders" at `+address+" can't be reached") {
		t.Errorf("%v, but %v", want, got)
	}
	if other := postgres.Explain(io.EOF, o); other != io.EOF { //nolint:errorlint // it is given back as it is
		t.Errorf("another error became %v", other)
	}
}
