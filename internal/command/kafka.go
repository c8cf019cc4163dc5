package command

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/trickle-verify/trickle/transport"
)

// security reads how to connect to Kafka. All of it comes from the environment, the same for every command; passwords could be seen in
// the process list if they were flags.
func security() (transport.Security, error) {
	s := transport.Security{
		TLS: transport.TLS{
			CAFile:     os.Getenv("TRICKLE_KAFKA_CA_FILE"),
			CertFile:   os.Getenv("TRICKLE_KAFKA_CERT_FILE"),
			KeyFile:    os.Getenv("TRICKLE_KAFKA_KEY_FILE"),
			ServerName: os.Getenv("TRICKLE_KAFKA_SERVER_NAME"),
		},
		Login: transport.Login{
			Mechanism:    strings.ToUpper(os.Getenv("TRICKLE_KAFKA_SASL_MECHANISM")),
			User:         os.Getenv("TRICKLE_KAFKA_SASL_USER"),
			Password:     os.Getenv("TRICKLE_KAFKA_SASL_PASSWORD"),
			PasswordFile: os.Getenv("TRICKLE_KAFKA_SASL_PASSWORD_FILE"),
			OAuth: transport.OAuth{
				TokenFile:        os.Getenv("TRICKLE_KAFKA_OAUTH_TOKEN_FILE"),
				TokenURL:         os.Getenv("TRICKLE_KAFKA_OAUTH_TOKEN_URL"),
				ClientID:         os.Getenv("TRICKLE_KAFKA_OAUTH_CLIENT_ID"),
				ClientSecret:     os.Getenv("TRICKLE_KAFKA_OAUTH_CLIENT_SECRET"),
				ClientSecretFile: os.Getenv("TRICKLE_KAFKA_OAUTH_CLIENT_SECRET_FILE"),
				Scopes:           strings.Fields(os.Getenv("TRICKLE_KAFKA_OAUTH_SCOPE")),
			},
		},
	}
	// Who names a certificate wants TLS.
	s.TLS.Enabled = s.TLS != transport.TLS{}
	if on := os.Getenv("TRICKLE_KAFKA_TLS"); on != "" {
		var err error
		if s.TLS.Enabled, err = strconv.ParseBool(on); err != nil {
			return s, fmt.Errorf("TRICKLE_KAFKA_TLS %q: use true or false", on)
		}
	}
	for _, pair := range strings.FieldsFunc(os.Getenv("TRICKLE_KAFKA_OAUTH_EXTENSIONS"), func(r rune) bool { return r == ',' }) {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || name == "" {
			return s, fmt.Errorf("TRICKLE_KAFKA_OAUTH_EXTENSIONS: %q is no name=value", pair)
		}
		if s.Login.OAuth.Extensions == nil {
			s.Login.OAuth.Extensions = make(map[string]string)
		}
		s.Login.OAuth.Extensions[name] = value
	}
	return s, nil
}

// list takes a list of servers apart.
func list(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
