package transport_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/internal/testbed/pki"
	"github.com/trickle-verify/trickle/transport"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every setting that can't work is refused before anything is connected, by the name of its variable.
func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "ca"), pki.New(t, "other")
	pair, stranger := ca.Issue(t, pki.Request{Name: "trickle"}), other.Issue(t, pki.Request{Name: "trickle"})
	expired := ca.Issue(t, pki.Request{Name: "trickle", Until: time.Now().Add(-time.Minute)})
	locked := file(t, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	user := transport.Login{Mechanism: "SCRAM-SHA-512", User: "u", Password: "p"}
	for name, c := range map[string]struct {
		security transport.Security
		want     string // "" for none
	}{
		"nothing":                       {},
		"all of TLS":                    {transport.Security{TLS: transport.TLS{Enabled: true, CAFile: ca.File, CertFile: pair.CertFile, KeyFile: pair.KeyFile}, Login: user}, ""},
		"TLS off, with files":           {transport.Security{TLS: transport.TLS{CAFile: ca.File}}, "TRICKLE_KAFKA_TLS is false"},
		"a certificate without its key": {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.CertFile}}, "without TRICKLE_KAFKA_KEY_FILE"},
		"a key without its certificate": {transport.Security{TLS: transport.TLS{Enabled: true, KeyFile: pair.KeyFile}}, "without TRICKLE_KAFKA_CERT_FILE"},
		"no CA file":                    {transport.Security{TLS: transport.TLS{Enabled: true, CAFile: "/none"}}, "TRICKLE_KAFKA_CA_FILE: open /none"},
		"a CA file of something else":   {transport.Security{TLS: transport.TLS{Enabled: true, CAFile: pair.KeyFile}}, "TRICKLE_KAFKA_CA_FILE: " + pair.KeyFile + " holds no certificate"},
		"no certificate":                {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: "/none", KeyFile: pair.KeyFile}}, "TRICKLE_KAFKA_CERT_FILE: open /none"},
		"no key":                        {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.CertFile, KeyFile: "/none"}}, "TRICKLE_KAFKA_KEY_FILE: open /none"},
		"files changed about":           {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.KeyFile, KeyFile: pair.CertFile}}, "TRICKLE_KAFKA_CERT_FILE: " + pair.KeyFile + " holds no certificate"},
		"a key that is none":            {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.CertFile, KeyFile: ca.File}}, "holds no private key"},
		"a key with a passphrase":       {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.CertFile, KeyFile: locked}}, "is encrypted"},
		"another's key":                 {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: pair.CertFile, KeyFile: stranger.KeyFile}}, "does not match"},
		"an expired certificate":        {transport.Security{TLS: transport.TLS{Enabled: true, CertFile: expired.CertFile, KeyFile: expired.KeyFile}}, "TRICKLE_KAFKA_CERT_FILE (" + expired.CertFile + ") expired on"},

		"a user without a mechanism":     {transport.Security{Login: transport.Login{User: "u", Password: "p"}}, "without TRICKLE_KAFKA_SASL_MECHANISM"},
		"a token without a mechanism":    {transport.Security{Login: transport.Login{OAuth: transport.OAuth{TokenFile: ca.File}}}, "without TRICKLE_KAFKA_SASL_MECHANISM"},
		"an unknown mechanism":           {transport.Security{Login: transport.Login{Mechanism: "GSSAPI", User: "u", Password: "p"}}, "use PLAIN, SCRAM-SHA-256"},
		"a mechanism without a user":     {transport.Security{Login: transport.Login{Mechanism: "PLAIN"}}, "TRICKLE_KAFKA_SASL_USER is not set"},
		"a user without a password":      {transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "u"}}, "set TRICKLE_KAFKA_SASL_PASSWORD or"},
		"two passwords":                  {transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "u", Password: "p", PasswordFile: ca.File}}, "are both set"},
		"no password file":               {transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "u", PasswordFile: "/none"}}, "TRICKLE_KAFKA_SASL_PASSWORD_FILE: open /none"},
		"an empty password file":         {transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "u", PasswordFile: file(t, "\n")}}, "is empty"},
		"a user for OAUTHBEARER":         {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", User: "u"}}, "not for OAUTHBEARER"},
		"a token for PLAIN":              {transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "u", Password: "p", OAuth: transport.OAuth{TokenFile: ca.File}}}, "TRICKLE_KAFKA_SASL_MECHANISM is PLAIN"},
		"no token":                       {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER"}}, "TRICKLE_KAFKA_OAUTH_TOKEN_FILE or"},
		"two sources of tokens":          {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: ca.File, TokenURL: "https://a/b"}}}, "set one of them"},
		"no token file":                  {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: "/none"}}}, "TRICKLE_KAFKA_OAUTH_TOKEN_FILE: open /none"},
		"an endpoint that is no address": {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenURL: "idp"}}}, "TRICKLE_KAFKA_OAUTH_TOKEN_URL is no address"},
		"an endpoint without a client":   {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenURL: "https://a/b"}}}, "without TRICKLE_KAFKA_OAUTH_CLIENT_ID"},
		"a client without a secret":      {transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenURL: "https://a/b", ClientID: "c"}}}, "TRICKLE_KAFKA_OAUTH_CLIENT_SECRET_FILE"},
	} {
		err := c.security.Check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: got %v, want %q in one line", name, err, c.want)
		}
		if c.want != "" {
			if _, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: []string{"127.0.0.1:1"}, Security: c.security}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: connecting tells %v", name, err)
			}
		}
	}
}

func TestSecretsInClearAreWarnedOf(t *testing.T) {
	t.Parallel()
	safe := transport.TLS{Enabled: true}
	for _, c := range []struct {
		security transport.Security
		want     int
	}{
		{transport.Security{}, 0},
		{transport.Security{Login: transport.Login{Mechanism: "PLAIN"}}, 1},
		{transport.Security{Login: transport.Login{Mechanism: "SCRAM-SHA-256"}}, 1},
		{transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenURL: "http://idp/token"}}}, 2},
		{transport.Security{TLS: safe, Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenURL: "https://idp/token"}}}, 0},
		{transport.Security{TLS: safe, Login: transport.Login{Mechanism: "PLAIN"}}, 0},
	} {
		if got := c.security.Warnings(); len(got) != c.want {
			t.Errorf("%+v: %q", c.security, got)
		}
	}
}

// works connects, sends, and reads back through a reader's own client.
func works(t *testing.T, brokers []string, s transport.Security) {
	t.Helper()
	ctx := bounded(t)
	bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: brokers, Security: s, ConnectTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, bus) })
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
	send(ctx, t, bus, "a", "x")
	r, err := bus.Group(ctx, "g", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, r)
	same(t, read(ctx, t, r, 1), []string{"x"})
}

// refused connects and returns why that does not work.
func refused(t *testing.T, brokers []string, s transport.Security) string {
	t.Helper()
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: brokers, Security: s, ConnectTimeout: 8 * time.Second})
	if err == nil {
		closed(t, bus)
		return "it works"
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
	return err.Error()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "ca"), pki.New(t, "other")
	server := ca.Server(t, ca.Issue(t, pki.Request{Name: "broker", Hosts: []string{"127.0.0.1", "localhost"}}))
	demanding := server.Clone()
	demanding.ClientAuth = tls.RequireAndVerifyClientCert
	client, stranger := ca.Issue(t, pki.Request{Name: "trickle"}), other.Issue(t, pki.Request{Name: "trickle"})
	elsewhere := ca.Server(t, ca.Issue(t, pki.Request{Name: "broker", Hosts: []string{"broker.example"}}))
	old := ca.Server(t, ca.Issue(t, pki.Request{Name: "broker", Hosts: []string{"127.0.0.1"}, Until: time.Now().Add(-time.Minute)}))
	for name, c := range map[string]struct {
		listener *tls.Config // nil: in clear
		client   transport.TLS
		want     string // "" for success
	}{
		"verified":           {server, transport.TLS{Enabled: true, CAFile: ca.File}, ""},
		"both sides":         {demanding, transport.TLS{Enabled: true, CAFile: ca.File, CertFile: client.CertFile, KeyFile: client.KeyFile}, ""},
		"under another name": {elsewhere, transport.TLS{Enabled: true, CAFile: ca.File, ServerName: "broker.example"}, ""},

		"of an authority that nobody named":   {server, transport.TLS{Enabled: true}, "set TRICKLE_KAFKA_CA_FILE"},
		"of another authority":                {server, transport.TLS{Enabled: true, CAFile: other.File}, "none in TRICKLE_KAFKA_CA_FILE (" + other.File + ") has signed"},
		"for another host":                    {elsewhere, transport.TLS{Enabled: true, CAFile: ca.File}, "TRICKLE_KAFKA_SERVER_NAME"},
		"expired":                             {old, transport.TLS{Enabled: true, CAFile: ca.File}, "certificate has expired"},
		"a client without a certificate":      {demanding, transport.TLS{Enabled: true, CAFile: ca.File}, "set TRICKLE_KAFKA_CERT_FILE and TRICKLE_KAFKA_KEY_FILE"},
		"a client that the broker can't tell": {demanding, transport.TLS{Enabled: true, CAFile: ca.File, CertFile: stranger.CertFile, KeyFile: stranger.KeyFile}, "check the certificate in TRICKLE_KAFKA_CERT_FILE"},
		"a client in clear":                   {server, transport.TLS{}, "set TRICKLE_KAFKA_TLS=true"},
		"a broker in clear":                   {nil, transport.TLS{Enabled: true, CAFile: ca.File}, "set TRICKLE_KAFKA_TLS=false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var options []kfake.Opt
			if c.listener != nil {
				options = append(options, kfake.TLS(c.listener))
			}
			brokers := newCluster(t, options...).ListenAddrs()
			if c.want == "" {
				works(t, brokers, transport.Security{TLS: c.client})
				return
			}
			if got := refused(t, brokers, transport.Security{TLS: c.client}); !strings.Contains(got, c.want) || !strings.Contains(got, brokers[0]) {
				t.Errorf("got %s, want %q in it", got, c.want)
			}
		})
	}
}

// Certificates and authorities that are renewed on disk are used by the next connection; while the files don't fit together, the last ones are.
func TestCertificatesThatAreRenewedAreUsed(t *testing.T) {
	t.Parallel()
	ca, next := pki.New(t, "ca"), pki.New(t, "next")
	pair := ca.Issue(t, pki.Request{Name: "before"})
	names := make(chan string, 100)
	server := ca.Server(t, ca.Issue(t, pki.Request{Name: "broker", Hosts: []string{"127.0.0.1"}}))
	server.ClientAuth = tls.RequireAndVerifyClientCert
	server.VerifyConnection = func(s tls.ConnectionState) error {
		names <- s.PeerCertificates[0].Subject.CommonName
		return nil
	}
	cluster := newCluster(t, kfake.TLS(server))
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: cluster.ListenAddrs(), Security: transport.Security{
		TLS: transport.TLS{Enabled: true, CAFile: ca.File, CertFile: pair.CertFile, KeyFile: pair.KeyFile},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, bus) })
	ctx := bounded(t)
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
	groups := 0
	until := func(want string) {
		t.Helper()
		groups++
		r := join(ctx, t, bus, fmt.Sprint("g", groups), "a") // with a client of its own
		send(ctx, t, bus, "a", want)
		read(ctx, t, r, 1)
		for {
			select {
			case got := <-names:
				if got == want {
					return
				}
			case <-ctx.Done():
				t.Fatalf("no connection with the certificate of %q", want)
			}
		}
	}
	until("before")
	for len(names) > 0 {
		<-names
	}
	ca.IssueTo(t, pair, pki.Request{Name: "after"})
	until("after")

	old, err := os.ReadFile(pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	next.IssueTo(t, pair, pki.Request{Name: "halfway"})
	if err := os.WriteFile(pair.KeyFile, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for len(names) > 0 {
		<-names
	}
	until("after")
}

func TestLogins(t *testing.T) {
	t.Parallel()
	cluster := func(t *testing.T, mechanism string) []string {
		return newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "trickle", "right")).ListenAddrs()
	}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			works(t, cluster(t, mechanism), transport.Security{Login: transport.Login{Mechanism: mechanism, User: "trickle", Password: "right"}})
			works(t, cluster(t, mechanism), transport.Security{Login: transport.Login{Mechanism: mechanism, User: "trickle", PasswordFile: file(t, "right\n")}})
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if got := refused(t, cluster(t, "PLAIN"), transport.Security{}); !strings.Contains(got, "TRICKLE_KAFKA_SASL_MECHANISM to one of PLAIN") {
			t.Error(got)
		}
	})
	t.Run("another mechanism", func(t *testing.T) {
		t.Parallel()
		s := transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: file(t, "abc")}}}
		if got := refused(t, cluster(t, "SCRAM-SHA-512"), s); !strings.Contains(got, "does not log in with OAUTHBEARER, but with") || !strings.Contains(got, "SCRAM-SHA-512") {
			t.Error(got)
		}
	})
	t.Run("a listener without logins", func(t *testing.T) {
		t.Parallel()
		s := transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "trickle", Password: "right"}}
		// kfake hangs up; a real broker says what is wrong.
		if got := refused(t, newCluster(t).ListenAddrs(), s); !strings.Contains(got, "check the login (TRICKLE_KAFKA_SASL_") {
			t.Error(got)
		}
	})
}

// oauth makes kfake take tokens, which by itself it does not.
func oauthCluster(t *testing.T, good string) (*kfake.Cluster, *string) {
	t.Helper()
	cluster := newCluster(t)
	accepted := &good
	cluster.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return req.ResponseKind(), nil, true
	})
	refusing := false
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		got := string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes)
		switch {
		case refusing:
			answer.ErrorCode = kerr.SaslAuthenticationFailed.Code
		case !strings.Contains(got, "auth=Bearer "+*accepted+"\x01"):
			answer.SASLAuthBytes = []byte(`{"status":"invalid_token"}`)
		}
		return answer, nil, true
	})
	return cluster, accepted
}

func TestTokens(t *testing.T) {
	t.Parallel()
	t.Run("of a file", func(t *testing.T) {
		t.Parallel()
		cluster, _ := oauthCluster(t, "abc")
		works(t, cluster.ListenAddrs(), transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: file(t, "abc\n")}}})
	})
	t.Run("of a file, refused", func(t *testing.T) {
		t.Parallel()
		cluster, _ := oauthCluster(t, "abc")
		s := transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: file(t, "secret-token")}}}
		if got := refused(t, cluster.ListenAddrs(), s); !strings.Contains(got, "does not accept the token") || !strings.Contains(got, "invalid_token") || strings.Contains(got, "secret-token") {
			t.Error(got)
		}
	})
	t.Run("of a file that is renewed", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		cluster, accepted := oauthCluster(t, "first")
		path := file(t, "first")
		bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: cluster.ListenAddrs(), Security: transport.Security{
			Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: path}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, bus)
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
		*accepted = "second"
		if err := os.WriteFile(path, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		send(ctx, t, bus, "a", "x")
		same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 1), []string{"x"})
	})
	t.Run("of an endpoint", func(t *testing.T) {
		t.Parallel()
		endpoint := tokenEndpoint(t, "abc")
		cluster, _ := oauthCluster(t, "abc")
		o := transport.OAuth{TokenURL: endpoint, ClientID: "trickle", ClientSecretFile: file(t, "right"), Scopes: []string{"kafka"}}
		works(t, cluster.ListenAddrs(), transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: o}})
		o.ClientSecretFile, o.ClientSecret = "", "not-the-secret"
		got := refused(t, cluster.ListenAddrs(), transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: o}})
		if !strings.Contains(got, "TRICKLE_KAFKA_OAUTH_TOKEN_URL") || !strings.Contains(got, "401") || strings.Contains(got, "not-the-secret") {
			t.Error(got)
		}
	})
	t.Run("of an endpoint that is away", func(t *testing.T) {
		t.Parallel()
		cluster, _ := oauthCluster(t, "abc")
		o := transport.OAuth{TokenURL: "http://127.0.0.1:1/token", ClientID: "trickle", ClientSecret: "s"}
		if got := refused(t, cluster.ListenAddrs(), transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: o}}); !strings.Contains(got, "TRICKLE_KAFKA_OAUTH_TOKEN_URL") || !strings.Contains(got, "refused") {
			t.Error(got)
		}
	})
}

// tokenEndpoint hands the token to the client trickle with the secret "right" for the scope kafka.
func tokenEndpoint(t *testing.T, token string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		id, password, _ := r.BasicAuth()
		if id != "trickle" || password != "right" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka" {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client"})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 60})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// The cluster answers at the address that was given, and names another one for its broker.
func TestABrokerThatAdvertisesAnAddressThatCannotBeReachedIsTold(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	port := freePort(t)
	cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := req.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 0, "127.0.0.1", int32(port)
		answer.Brokers = append(answer.Brokers, b)
		return answer, nil, true
	})
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: cluster.ListenAddrs(), ConnectTimeout: time.Second})
	if err == nil {
		closed(t, bus)
		t.Fatal("it works")
	}
	advertised := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if got := err.Error(); !strings.Contains(got, advertised) || !strings.Contains(got, "advertised.listeners") || !strings.Contains(got, cluster.ListenAddrs()[0]) {
		t.Error(got)
	}
}
