package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"
)

const (
	codeSSLRequest    = 80877103
	codeGSSEncRequest = 80877104
	codeCancelRequest = 80877102
	mechanism         = "SCRAM-SHA-256"
)

// refusal ends a connection before it is authenticated.
type refusal struct {
	state  string // SQLSTATE
	reason string // label of the metric
	text   string
}

func (r *refusal) Error() string { return r.text }

var errCancelRequest = errors.New("cancel request")

// startup is what came before authentication.
type startup struct {
	message  pgproto3.StartupMessage
	minor    uint32   // asked for; 0 or more
	unknown  []string // options of later protocols, to be named in a NegotiateProtocolVersion
	secure   bool     // TLS
	canceled pgproto3.CancelRequest
}

// readPacket reads one packet of the startup phase: length, code, body. It reads not a byte more: what an attacker slips in behind an
// SSLRequest must not pass as having come through TLS.
func readPacket(r io.Reader, limit int) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:])) - 4
	if size < 4 || size > int64(limit) {
		return nil, &refusal{"08P01", "protocol", fmt.Sprintf("invalid length of startup packet: %d", size)}
	}
	packet := make([]byte, size)
	copy(packet, head[4:])
	if _, err := io.ReadFull(r, packet[4:]); err != nil {
		return nil, err
	}
	return packet, nil
}

// negotiate reads packets until the startup message, answering requests for encryption. It returns the connection to go on with.
func (g *Gateway) negotiate(conn net.Conn) (net.Conn, *startup, error) {
	s := &startup{}
	var askedTLS, askedGSS bool
	for {
		packet, err := readPacket(conn, g.o.MaxStartupBytes)
		if err != nil {
			return conn, nil, err
		}
		switch code := binary.BigEndian.Uint32(packet); {
		case code == codeSSLRequest && !askedTLS:
			askedTLS = true
			if conn, err = g.offerTLS(conn, s); err != nil {
				return conn, nil, err
			}
		case code == codeGSSEncRequest && !askedGSS:
			askedGSS = true
			if _, err := conn.Write([]byte{'N'}); err != nil {
				return conn, nil, err
			}
		case code == codeCancelRequest:
			if err := s.canceled.Decode(packet); err != nil {
				return conn, nil, err
			}
			return conn, s, errCancelRequest
		case code>>16 == 3:
			return conn, s, s.decode(packet)
		default:
			return conn, nil, &refusal{"08P01", "protocol", fmt.Sprintf("unsupported startup code %d", code)}
		}
	}
}

func (g *Gateway) offerTLS(conn net.Conn, s *startup) (net.Conn, error) {
	if g.o.TLS == nil {
		_, err := conn.Write([]byte{'N'})
		return conn, err
	}
	if _, err := conn.Write([]byte{'S'}); err != nil {
		return conn, err
	}
	secured := tls.Server(conn, g.o.TLS)
	ctx, cancel := context.WithTimeout(g.ctx, g.o.AuthTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		return conn, fmt.Errorf("TLS handshake: %w", err)
	}
	s.secure = true
	return secured, nil
}

// decode reads a startup message of any protocol 3.x. The gateway speaks 3.0, and 3.2 where asked.
func (s *startup) decode(packet []byte) error {
	s.minor = binary.BigEndian.Uint32(packet) & 0xffff
	binary.BigEndian.PutUint32(packet, pgproto3.ProtocolVersion30)
	if len(packet) == 5 && packet[4] == 0 { // no parameters at all, which StartupMessage does not expect
		s.message = pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30}
	} else if err := s.message.Decode(packet); err != nil {
		return &refusal{"08P01", "protocol", "invalid startup packet"}
	}
	for name := range s.message.Parameters {
		if strings.HasPrefix(name, "_pq_.") {
			s.unknown = append(s.unknown, name)
		}
	}
	return nil
}

// version returns the protocol's minor version that both sides speak.
func (s *startup) version() uint32 {
	if s.minor >= 2 {
		return 2
	}
	return 0
}

// admit decides on a startup message, before the password.
func (g *Gateway) admit(conn net.Conn, s *startup) error {
	p := s.message.Parameters
	if encoding, ok := p["client_encoding"]; ok && !isUTF8(encoding) {
		return &refusal{stateUnsupported, "encoding", fmt.Sprintf("client_encoding %q is not supported: the gateway speaks UTF8", wireText(encoding))}
	}
	if replication, ok := p["replication"]; ok && replication != "false" && replication != "off" && replication != "0" {
		return &refusal{stateUnsupported, "protocol", "the gateway does not replicate"}
	}
	if g.o.TLS != nil && !s.secure && !local(conn) {
		return &refusal{"28000", "tls", "the gateway takes connections from other hosts over TLS only; set sslmode=require"}
	}
	return nil
}

// local reports whether the peer is on this host.
func local(conn net.Conn) bool {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.IP.IsLoopback()
	}
	return true
}

func isUTF8(encoding string) bool {
	switch strings.ToLower(strings.Trim(encoding, "'\" ")) {
	case "utf8", "utf-8", "unicode":
		return true
	}
	return false
}

// authenticate runs SCRAM-SHA-256 as the server. A wrong user name fails like a wrong password, after it.
func (g *Gateway) authenticate(b *pgproto3.Backend, f *frames, user string) error {
	wrong := &refusal{statePassword, "password", fmt.Sprintf("password authentication failed for user %q", wireText(user))}
	b.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{mechanism}})
	if err := b.Flush(); err != nil {
		return err
	}
	_ = b.SetAuthType(pgproto3.AuthTypeSASL)
	first, err := receiveAuth[*pgproto3.SASLInitialResponse](b, f, g.o.MaxStartupBytes)
	if err != nil {
		return err
	}
	if first.AuthMechanism != mechanism {
		return &refusal{"28000", "protocol", fmt.Sprintf("unknown SASL mechanism %q", wireText(first.AuthMechanism))}
	}
	secrets := g.vault.current.Load()
	if secrets.password == "" {
		if secrets, _ = g.vault.renewed(g.ctx, secrets); secrets == nil {
			return &refusal{"57P03", "not_ready", "the sidecar is starting: it has no credentials yet"}
		}
	}
	login := newLogin(string(first.Data))
	challenge, err := login.challenge(secrets)
	if err != nil {
		return &refusal{"08P01", "protocol", "malformed SCRAM message"}
	}
	b.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte(challenge)})
	if err := b.Flush(); err != nil {
		return err
	}
	_ = b.SetAuthType(pgproto3.AuthTypeSASLContinue)
	final, err := receiveAuth[*pgproto3.SASLResponse](b, f, g.o.MaxStartupBytes)
	if err != nil {
		return err
	}
	proof, err := login.verify(secrets, string(final.Data))
	if err != nil {
		// The password may have changed a moment ago.
		renewed, refreshErr := g.vault.renewed(g.ctx, secrets)
		if refreshErr != nil {
			g.o.Logger.Warn("credentials could not be read again", "error", refreshErr)
		}
		if renewed == nil {
			return wrong
		}
		if proof, err = login.verify(renewed, string(final.Data)); err != nil {
			return wrong
		}
	}
	if user != User {
		return wrong
	}
	b.Send(&pgproto3.AuthenticationSASLFinal{Data: []byte(proof)})
	b.Send(&pgproto3.AuthenticationOk{})
	return nil // the caller sends more before it flushes
}

func receiveAuth[M any](b *pgproto3.Backend, f *frames, limit int) (m M, err error) {
	kind, size, err := f.next()
	if err != nil {
		return m, err
	}
	if kind != 'p' {
		return m, &refusal{"08P01", "protocol", fmt.Sprintf("expected a SASL response, got message type %q", kind)}
	}
	if size < 0 || size > limit {
		return m, &refusal{"08P01", "protocol", fmt.Sprintf("invalid length of a message before authentication: %d", size)}
	}
	message, err := b.Receive()
	if err != nil {
		return m, &refusal{"08P01", "protocol", "malformed SASL message"}
	}
	m, ok := message.(M)
	if !ok {
		return m, &refusal{"08P01", "protocol", "unexpected message during authentication"}
	}
	return m, nil
}

// login is one SCRAM conversation that can be judged again under other secrets: salt, iterations and nonce stay the same.
type login struct {
	first string
	nonce string
}

func newLogin(first string) *login {
	nonce := make([]byte, 24)
	_, _ = rand.Read(nonce) // never fails
	return &login{first: first, nonce: base64.StdEncoding.EncodeToString(nonce)}
}

// challenge returns the server's first message.
func (l *login) challenge(s *secrets) (string, error) {
	_, challenge, err := l.begin(s)
	return challenge, err
}

// verify returns the server's last message where final, the client's, proves that it knows the password.
func (l *login) verify(s *secrets, final string) (string, error) {
	conversation, _, err := l.begin(s)
	if err != nil {
		return "", err
	}
	proof, err := conversation.Step(final)
	if err == nil && !conversation.Valid() {
		err = errors.New("invalid proof")
	}
	return proof, err
}

func (l *login) begin(s *secrets) (*scram.ServerConversation, string, error) {
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return s.stored, nil })
	if err != nil {
		return nil, "", err
	}
	conversation := server.WithNonceGenerator(func() string { return l.nonce }).NewConversation()
	challenge, err := conversation.Step(l.first)
	return conversation, challenge, err
}

// greet sends what follows authentication.
func (s *session) greet() error {
	for _, p := range [...][2]string{
		{"server_version", "15.0 (Rowcast)"}, {"server_encoding", "UTF8"}, {"client_encoding", "UTF8"}, {"standard_conforming_strings", "on"},
		{"integer_datetimes", "on"}, {"DateStyle", "ISO, MDY"}, {"TimeZone", "UTC"},
	} {
		s.backend.Send(&pgproto3.ParameterStatus{Name: p[0], Value: p[1]})
	}
	s.backend.Send(&pgproto3.BackendKeyData{ProcessID: s.id, SecretKey: s.secret})
	s.backend.Send(&s.out.ready)
	_ = s.conn.SetDeadline(time.Time{})
	return s.backend.Flush()
}
