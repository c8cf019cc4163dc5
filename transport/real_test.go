package transport_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pki"
	"github.com/trickle-verify/trickle/transport"
)

// content is a file's text.
func content(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unsecured is a token that nobody signed, which a broker for tests accepts.
func unsecured(subject string, until time.Time) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d}`, subject, time.Now().Unix(), until.Unix())) + "."
}

// A real broker, with a listener for each way that companies run it.
func TestRealKafkaWithTLSAndLogins(t *testing.T) {
	t.Parallel()
	ca, other := pki.New(t, "ca"), pki.New(t, "other")
	server := ca.Issue(t, pki.Request{Name: "broker", Hosts: []string{"127.0.0.1", "localhost"}})
	client, stranger := ca.Issue(t, pki.Request{Name: "trickle"}), other.Issue(t, pki.Request{Name: "trickle"})
	properties := map[string]string{}
	for _, name := range []string{"tls", "mutual", "both"} {
		prefix := "listener.name." + name + ".ssl."
		properties[prefix+"keystore.type"], properties[prefix+"keystore.location"] = "PEM", "{{dir}}/server.pem"
		properties[prefix+"truststore.type"], properties[prefix+"truststore.location"] = "PEM", "{{dir}}/ca.pem"
		properties[prefix+"client.auth"] = "none"
	}
	properties["listener.name.mutual.ssl.client.auth"] = "required"
	for _, name := range []string{"login", "both"} {
		prefix := "listener.name." + name + "."
		properties[prefix+"sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		properties[prefix+"plain.sasl.jaas.config"] = `org.apache.kafka.common.security.plain.PlainLoginModule required user_trickle="secret";`
		for _, scram := range []string{"scram-sha-256", "scram-sha-512"} {
			properties[prefix+scram+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	properties["listener.name.token.sasl.enabled.mechanisms"] = "OAUTHBEARER"
	properties["listener.name.token.oauthbearer.sasl.jaas.config"] = `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`
	properties["listener.name.token.oauthbearer.sasl.server.callback.handler.class"] = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	broker, err := kafka.Start(ctx, kafka.Options{
		Listeners:  map[string]string{"TLS": "SSL", "MUTUAL": "SSL", "LOGIN": "SASL_PLAINTEXT", "BOTH": "SASL_SSL", "TOKEN": "SASL_PLAINTEXT"},
		Properties: properties,
		Files: map[string][]byte{
			"server.pem": append(content(t, server.KeyFile), content(t, server.CertFile)...),
			"ca.pem":     content(t, ca.File),
		},
		Users: []string{"SCRAM-SHA-256=[name=trickle,password=secret]", "SCRAM-SHA-512=[name=trickle,password=secret]"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := broker.Stop(ctx); err != nil {
			t.Error(err)
		}
	})

	tls := transport.TLS{Enabled: true, CAFile: ca.File}
	mutual := transport.TLS{Enabled: true, CAFile: ca.File, CertFile: client.CertFile, KeyFile: client.KeyFile}
	user := func(mechanism, password string) transport.Login {
		return transport.Login{Mechanism: mechanism, User: "trickle", Password: password}
	}
	token := func(text string) transport.Login {
		return transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{TokenFile: file(t, text)}}
	}
	for _, c := range []struct {
		name, listener string
		security       transport.Security
		want           []string // parts of the error; none for success
	}{
		{"in clear", "PLAINTEXT", transport.Security{}, nil},
		{"TLS", "TLS", transport.Security{TLS: tls}, nil},
		{"both sides by certificate", "MUTUAL", transport.Security{TLS: mutual}, nil},
		{"PLAIN", "LOGIN", transport.Security{Login: user("PLAIN", "secret")}, nil},
		{"SCRAM-SHA-256", "LOGIN", transport.Security{Login: user("SCRAM-SHA-256", "secret")}, nil},
		{"SCRAM-SHA-512", "LOGIN", transport.Security{Login: user("SCRAM-SHA-512", "secret")}, nil},
		{"PLAIN over TLS", "BOTH", transport.Security{TLS: tls, Login: user("PLAIN", "secret")}, nil},
		{"SCRAM over TLS", "BOTH", transport.Security{TLS: tls, Login: user("SCRAM-SHA-512", "secret")}, nil},
		{"OAUTHBEARER", "TOKEN", transport.Security{Login: token(unsecured("trickle", time.Now().Add(time.Hour)))}, nil},
		{"OAUTHBEARER, of an endpoint", "TOKEN", transport.Security{Login: transport.Login{Mechanism: "OAUTHBEARER", OAuth: transport.OAuth{
			TokenURL: tokenEndpoint(t, unsecured("trickle", time.Now().Add(time.Hour))), ClientID: "trickle", ClientSecret: "right", Scopes: []string{"kafka"},
		}}}, nil},

		{"TLS, authority unknown", "TLS", transport.Security{TLS: transport.TLS{Enabled: true}}, []string{"set TRICKLE_KAFKA_CA_FILE"}},
		{"TLS, another authority", "TLS", transport.Security{TLS: transport.TLS{Enabled: true, CAFile: other.File}}, []string{"none in TRICKLE_KAFKA_CA_FILE"}},
		{"TLS, another name", "TLS", transport.Security{TLS: transport.TLS{Enabled: true, CAFile: ca.File, ServerName: "elsewhere"}}, []string{"TRICKLE_KAFKA_SERVER_NAME"}},
		{"no certificate", "MUTUAL", transport.Security{TLS: tls}, []string{"set TRICKLE_KAFKA_CERT_FILE"}},
		{"a stranger's certificate", "MUTUAL", transport.Security{TLS: transport.TLS{Enabled: true, CAFile: ca.File, CertFile: stranger.CertFile, KeyFile: stranger.KeyFile}}, []string{"check the certificate in TRICKLE_KAFKA_CERT_FILE"}},
		{"in clear to TLS", "TLS", transport.Security{}, []string{"set TRICKLE_KAFKA_TLS=true"}},
		{"TLS to clear", "PLAINTEXT", transport.Security{TLS: tls}, []string{"set TRICKLE_KAFKA_TLS=false"}},
		{"wrong password, PLAIN", "LOGIN", transport.Security{Login: user("PLAIN", "guess")}, []string{"TRICKLE_KAFKA_SASL_USER"}},
		{"wrong password, SCRAM", "LOGIN", transport.Security{Login: user("SCRAM-SHA-256", "guess")}, []string{"TRICKLE_KAFKA_SASL_USER"}},
		{"another mechanism", "LOGIN", transport.Security{Login: token("abc")}, []string{"does not log in with OAUTHBEARER, but with", "SCRAM-SHA-512"}},
		{"no login", "LOGIN", transport.Security{}, []string{"set TRICKLE_KAFKA_SASL_MECHANISM to one of", "SCRAM-SHA-256"}},
		{"no login over TLS", "BOTH", transport.Security{TLS: tls}, []string{"set TRICKLE_KAFKA_SASL_MECHANISM to one of"}},
		{"a login nobody asked for", "PLAINTEXT", transport.Security{Login: user("PLAIN", "secret")}, []string{"unset TRICKLE_KAFKA_SASL_MECHANISM"}},
		{"login in clear to TLS", "BOTH", transport.Security{Login: user("PLAIN", "secret")}, []string{"TRICKLE_KAFKA_TLS=true"}},
		{"an expired token", "TOKEN", transport.Security{Login: token(unsecured("trickle", time.Now().Add(-time.Hour)))}, []string{"does not accept the token", "invalid_token"}},
		{"no token at all", "TOKEN", transport.Security{Login: token("nonsense")}, []string{"does not accept the token"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			brokers := []string{broker.Listener(c.listener)}
			if c.want == nil {
				works(t, brokers, c.security)
				return
			}
			got := refused(t, brokers, c.security)
			for _, want := range append(c.want, brokers[0]) {
				if !strings.Contains(got, want) {
					t.Errorf("%q is missing in: %s", want, got)
				}
			}
		})
	}
}
