package postgres

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unwrapParse drops the connection string, which may hold a password, from pgx's message.
func unwrapParse(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		if inner := parse.Unwrap(); inner != nil {
			return inner
		}
	}
	return err
}

func explainConnect(err error, c *pgx.ConnConfig, o Options) error {
	where := fmt.Sprintf("%s database %q at %s", o.Role, c.Database, net.JoinHostPort(c.Host, fmt.Sprint(c.Port)))
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code {
		case "28P01", "28000":
			return fmt.Errorf("%s refuses user %q: %s; check %s, then %s", where, c.User, server.Message, proof(c), o.Setting)
		case "3D000":
			return fmt.Errorf("%s does not exist; check the name in %s", where, o.Setting)
		case "57014":
			return fmt.Errorf("%s: %s while connecting; raise statement_timeout for user %q (ALTER ROLE … SET statement_timeout = 0) or in %s", where, server.Message, c.User, o.Setting)
		case "42501":
			return fmt.Errorf("%s: %s; %s", where, server.Message, lackingGrant(err, c))
		case "53300":
			return &awayError{fmt.Errorf("%s has no connection left: %s; raise max_connections or use a pooler", where, server.Message)}
		}
		if passing(server.Code) {
			return &awayError{fmt.Errorf("%s: %s (SQLSTATE %s)", where, server.Message, server.Code)}
		}
		return fmt.Errorf("%s: %s (SQLSTATE %s)", where, server.Message, server.Code)
	}
	if err := explainTLS(err, where, o); err != nil {
		return err
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		if dial.Op != "dial" && c.TLSConfig != nil && len(c.TLSConfig.Certificates) > 0 {
			// With TLS 1.3 a certificate is refused after the handshake, and a server that is gone by then has its alert lost on the way.
			return fmt.Errorf("%s ends the connection: %w; its log tells why: check sslcert and sslkey in %s if it refuses the certificate", where, dial, o.Setting)
		}
		return fmt.Errorf("%s can't be reached: %w; check host and port in %s", where, dial, o.Setting)
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return fmt.Errorf("%s can't be found: %w; check the host in %s", where, name, o.Setting)
	}
	if c.TLSConfig != nil {
		return fmt.Errorf("%s: %w; check sslmode and the rest of %s", where, OneLine(err), o.Setting)
	}
	return fmt.Errorf("%s: %w; check %s", where, OneLine(err), o.Setting)
}

// proof names what a server may have against a user.
func proof(c *pgx.ConnConfig) string {
	out := "the password"
	if c.Password == "" {
		out = "the password, as none was found (passfile, PGPASSFILE, .pgpass)"
	}
	if c.TLSConfig == nil {
		return out + ", sslmode and pg_hba.conf"
	}
	if len(c.TLSConfig.Certificates) == 0 {
		return out + ", sslcert and sslkey if it wants a certificate, and pg_hba.conf"
	}
	return out + ", the certificate in sslcert and pg_hba.conf"
}

// lackingGrant is what a login may not: to connect or, once connected, to ask which server it is (see sameServer).
func lackingGrant(err error, c *pgx.ConnConfig) string {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return "GRANT CONNECT ON DATABASE " + Quote(c.Database) + " TO " + Quote(c.User)
	}
	return "GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO " + Quote(c.User)
}

// explainTLS is nil for errors that are about something else.
func explainTLS(err error, where string, o Options) error {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		network   *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf("%s shows a certificate that none of the authorities known here has signed: %w; name its authority's file with sslrootcert in %s", where, authority, o.Setting)
	case errors.As(err, &host):
		return fmt.Errorf("%s shows a certificate for another name: %w; use a name that is in it for the host in %s", where, host, o.Setting)
	case errors.As(err, &invalid):
		return fmt.Errorf("%s shows a certificate that is not valid: %w; renew it at the server, or check this machine's clock", where, invalid)
	case errors.As(err, &network) && network.Op == "remote error": // how crypto/tls marks an alert
		return fmt.Errorf("%s ends the connection: %w; check sslcert and sslkey in %s, and that the server's ssl_ca_file has their authority", where, network, o.Setting)
	default:
		return nil
	}
}

// Explain has for a pool that can't connect the words that Open has. Any other error is as it was.
func Explain(err error, o Options) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	return explainConnect(connect, &pgx.ConnConfig{Config: *connect.Config}, o)
}
