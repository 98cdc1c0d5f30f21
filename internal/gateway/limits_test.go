package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func dial(t *testing.T, dir string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// startupPacket is a message of the startup phase.
func startupPacket(code uint32, parameters ...string) []byte {
	packet := binary.BigEndian.AppendUint32(make([]byte, 4), code)
	for _, p := range parameters {
		packet = append(append(packet, p...), 0)
	}
	if len(parameters) > 0 {
		packet = append(packet, 0)
	}
	binary.BigEndian.PutUint32(packet, uint32(len(packet)))
	return packet
}

// lastError reads until the peer hangs up and returns the last ErrorResponse.
func lastError(t *testing.T, conn net.Conn) *pgproto3.ErrorResponse {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	frontend := pgproto3.NewFrontend(conn, conn)
	var last *pgproto3.ErrorResponse
	for {
		message, err := frontend.Receive()
		if err != nil {
			return last
		}
		if e, ok := message.(*pgproto3.ErrorResponse); ok {
			c := *e
			last = &c
		}
	}
}

// allocated returns how many bytes the process allocated while do ran.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestGarbageBeforeAuthentication(t *testing.T) {
	_, _, dir := start(t, nil)
	huge := binary.BigEndian.AppendUint32(nil, 1<<30)
	for name, bytes := range map[string][]byte{
		"http":              []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"zeros":             make([]byte, 64),
		"claims a gigabyte": append(huge, 0, 3, 0, 0),
		"protocol 2":        startupPacket(2 << 16),
		"no terminator":     append(binary.BigEndian.AppendUint32(nil, 12), 0, 3, 0, 0, 'u', 's', 'e', 'r'),
		"two SSL requests":  append(startupPacket(codeSSLRequest), startupPacket(codeSSLRequest)...),
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, dir)
			used := allocated(func() {
				_, err := conn.Write(bytes)
				require.NoError(t, err)
				if name == "two SSL requests" {
					_, _ = io.CopyN(io.Discard, conn, 1)
				}
				e := lastError(t, conn)
				require.NotNil(t, e)
				require.Equal(t, "FATAL", e.Severity)
				require.Equal(t, "08P01", e.Code)
			})
			require.Less(t, used, uint64(1<<20))
		})
	}
	require.Equal(t, "=", connect(t, dir).tag("N"))
}

func TestOversizedMessageBeforeAuthentication(t *testing.T) {
	_, _, dir := start(t, nil)
	conn := dial(t, dir)
	_, err := conn.Write(startupPacket(3<<16, "user", User))
	require.NoError(t, err)
	used := allocated(func() {
		_, err = conn.Write(binary.BigEndian.AppendUint32([]byte{'p'}, 1<<29))
		require.NoError(t, err)
		e := lastError(t, conn)
		require.NotNil(t, e)
		require.Equal(t, "08P01", e.Code)
		require.Contains(t, e.Message, "before authentication")
	})
	require.Less(t, used, uint64(1<<20))
}

func TestQueryBeforeAuthentication(t *testing.T) {
	_, _, dir := start(t, nil)
	conn := dial(t, dir)
	_, err := conn.Write(append(startupPacket(3<<16, "user", User), 'Q', 0, 0, 0, 6, 'x', 0))
	require.NoError(t, err)
	require.Equal(t, "08P01", lastError(t, conn).Code)
}

func TestSlowStartupIsCutOff(t *testing.T) {
	g, _, dir := start(t, func(o *Options) { o.AuthTimeout = 200 * time.Millisecond })
	silent, slow, half := dial(t, dir), dial(t, dir), dial(t, dir)
	_, err := half.Write(startupPacket(3<<16, "user", User))
	require.NoError(t, err)
	go func() {
		for _, b := range startupPacket(3<<16, "user", User, "database", strings.Repeat("x", 1000)) {
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	before := time.Now()
	for _, conn := range []net.Conn{silent, slow, half} {
		_, err := io.Copy(io.Discard, conn)
		_ = err // reset or end, as the kernel likes
	}
	require.Less(t, time.Since(before), time.Second)
	require.Eventually(t, func() bool { return g.connections.Load() == 0 }, time.Second, 5*time.Millisecond)
}

func TestWrongPasswordAndUser(t *testing.T) {
	_, _, dir := start(t, nil)
	for _, change := range []func(*pgconn.Config){
		func(c *pgconn.Config) { c.Password = "guess" },
		func(c *pgconn.Config) { c.Password = "" },
		func(c *pgconn.Config) { c.User = "postgres" },
	} {
		config := configOf(t, dir)
		change(config)
		_, err := pgconn.ConnectConfig(context.Background(), config)
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "28P01", e.Code)
	}
}

// An empty final message proves nothing.
func TestEmptyProofDoesNotLogIn(t *testing.T) {
	_, _, dir := start(t, nil)
	conn := dial(t, dir)
	_, err := conn.Write(startupPacket(3<<16, "user", User))
	require.NoError(t, err)
	frontend := pgproto3.NewFrontend(conn, conn)
	_, err = frontend.Receive()
	require.NoError(t, err)
	frontend.Send(&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte("n,,n=,r=abcdefghijklmnop")})
	require.NoError(t, frontend.Flush())
	message, err := frontend.Receive()
	require.NoError(t, err)
	require.IsType(t, &pgproto3.AuthenticationSASLContinue{}, message)
	frontend.Send(&pgproto3.SASLResponse{})
	require.NoError(t, frontend.Flush())
	require.Equal(t, "28P01", lastError(t, conn).Code)
}

func TestNobodyLogsInWithoutCredentials(t *testing.T) {
	_, _, dir := start(t, func(o *Options) { o.Credentials = Credentials{} })
	config := configOf(t, dir)
	config.Password = ""
	_, err := pgconn.ConnectConfig(context.Background(), config)
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "57P03", e.Code)
}

func TestMaxConnections(t *testing.T) {
	g, _, dir := start(t, func(o *Options) { o.MaxConnections = 2 })
	first := connect(t, dir)
	connect(t, dir)
	_, err := pgconn.ConnectConfig(context.Background(), configOf(t, dir))
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "53300", e.Code)
	require.Contains(t, e.Message, "all the 2 connections")
	require.NoError(t, first.conn.Close(context.Background()))
	require.Eventually(t, func() bool { return g.connections.Load() == 1 }, time.Second, time.Millisecond)
	require.Equal(t, "=", connect(t, dir).tag("N"))
}

func TestOversizedCallIsRefusedAndTheConnectionGoesOn(t *testing.T) {
	_, _, dir := start(t, func(o *Options) { o.MaxMessageBytes = 1 << 20 })
	c := connect(t, dir)
	large := predict("echo " + strings.Repeat("x", 1<<20))
	require.Equal(t, "!", c.tag(large))
	e := c.stored()
	require.Equal(t, "54000", e.Code)
	require.Contains(t, e.Detail, "1048576")
	status, _ := c.row("P" + large[1:])
	require.Equal(t, "!", status)
	require.Equal(t, "54000", c.stored().Code)
	_, err := c.try(seal([]byte("another key, as long as the real"), large))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "28000", pgErr.Code)
	_, err = c.try(strings.Repeat("x", 2<<20))
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "28000", pgErr.Code)
	require.Equal(t, "=6", c.tag(predict("echo 6")))
}

func TestClaimOfALargeMessageAllocatesNothing(t *testing.T) {
	_, _, dir := start(t, nil)
	c := connect(t, dir)
	raw, err := c.conn.Hijack()
	require.NoError(t, err)
	used := allocated(func() {
		_, err = raw.Conn.Write(append(binary.BigEndian.AppendUint32([]byte{'Q'}, 1<<30), "some bytes, and then nothing for a while"...))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
	})
	require.Less(t, used, uint64(1<<20))
	require.NoError(t, raw.Conn.Close())
}

func TestMessagesOfAllConnectionsAreBounded(t *testing.T) {
	g, _, dir := start(t, func(o *Options) { o.MaxMessageBytes, o.MaxBufferedBytes = 1<<20, 1<<20 })
	first, second := connect(t, dir), connect(t, dir)
	large := "sleep 300ms" + strings.Repeat(" ", 800_000)
	require.Equal(t, "!", first.tag(predict(large)), "time.ParseDuration refuses the spaces")
	require.Zero(t, g.buffered.Load())
	large = "stubborn " + strings.Repeat(" ", 800_000)
	require.Equal(t, ".", first.tag(within("500ms", large)))
	require.Equal(t, "!", second.tag(predict(large)))
	require.Equal(t, "53400", second.stored().Code)
	require.Equal(t, "=7", second.tag(predict("echo 7")), "small messages are always taken")
}

func TestGarbageAfterAuthentication(t *testing.T) {
	_, _, dir := start(t, nil)
	for name, bytes := range map[string][]byte{
		"unknown type":    {'?', 0, 0, 0, 4},
		"negative length": {'Q', 0xff, 0xff, 0xff, 0xff},
		"length below 4":  {'Q', 0, 0, 0, 0},
		"no terminator":   {'Q', 0, 0, 0, 5, 'x'},
		"empty query":     {'Q', 0, 0, 0, 4},
		"NUL inside":      {'Q', 0, 0, 0, 8, 'x', 0, 'y', 0},
		"SASL again":      {'p', 0, 0, 0, 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := connect(t, dir).conn.Hijack()
			require.NoError(t, err)
			_, err = raw.Conn.Write(bytes)
			require.NoError(t, err)
			e := lastError(t, raw.Conn)
			require.NotNil(t, e)
			require.Equal(t, "FATAL", e.Severity)
			require.Equal(t, "08P01", e.Code)
		})
	}
}

func TestStopLetsRunningCallsFinish(t *testing.T) {
	g, _, dir := start(t, nil)
	idle, long, short := connect(t, dir), connect(t, dir), connect(t, dir)
	require.Equal(t, ".", long.tag(predict("sleep 300ms")))
	answer := make(chan string)
	go func() { answer <- short.tag(predict("sleep 50ms")) }()
	time.Sleep(20 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- g.Stop(context.Background()) }()
	require.Equal(t, "=slept 50ms", <-answer)
	tag := "."
	for tag == "." {
		tag = long.tag("W")
	}
	require.Equal(t, "=slept 300ms", tag)
	require.NoError(t, <-stopped)
	require.NoError(t, g.Stop(context.Background()), "twice is fine")
	_, err := idle.try(seal(secret.Key, "N"))
	require.Error(t, err)
	_, err = pgconn.ConnectConfig(context.Background(), configOf(t, dir))
	require.Error(t, err)
	require.Zero(t, g.connections.Load())
}

func TestStopLeavesTimeForTheStoredError(t *testing.T) {
	g, _, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, "!", c.tag(predict("refuse")))
	stopped := make(chan error, 1)
	go func() { stopped <- g.Stop(context.Background()) }()
	time.Sleep(50 * time.Millisecond)
	require.Equal(t, "22003", c.stored().Code)
	require.NoError(t, <-stopped)
}

func TestStopCancelsWhenItsTimeIsUp(t *testing.T) {
	g, engine, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, ".", c.tag(predict("sleep 1m")))
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- g.Stop(ctx) }()
	answer := "."
	for answer == "." {
		answer = c.tag("W")
	}
	require.Equal(t, "!", answer)
	require.Contains(t, c.stored().Message, "the sidecar is stopping")
	require.ErrorContains(t, <-stopped, "1 calls were canceled")
	require.ErrorContains(t, engine.lastCause(), "the sidecar is stopping")
}

func TestStopDoesNotWaitForACallThatIgnoresIt(t *testing.T) {
	g, engine, dir := start(t, nil)
	c := connect(t, dir)
	require.Equal(t, ".", c.tag(predict("stubborn")))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before := time.Now()
	require.ErrorContains(t, g.Stop(ctx), "1 calls ignore their cancellation")
	require.Less(t, time.Since(before), killGrace+time.Second)
	close(engine.release)
}

func TestEndOfTheStartContextStops(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
	require.NoError(t, err)
	g := New(Options{Listeners: []net.Listener{l}, Engine: newArithmetic(), Credentials: secret})
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, g.Start(ctx))
	require.Error(t, g.Start(ctx))
	cancel()
	<-g.stopped
}

func TestRotation(t *testing.T) {
	next := Credentials{Password: "next", Key: []byte("fedcba9876543210fedcba9876543210")}
	asked := 0
	g, _, dir := start(t, func(o *Options) {
		o.Refresh = func(context.Context) (Credentials, error) { asked++; return next, nil }
	})
	c := connect(t, dir)
	require.Equal(t, "=", c.tag("N"))
	require.Zero(t, asked)
	tag, err := c.try(seal(next.Key, "N"))
	require.NoError(t, err, "a call under the new key makes the gateway look")
	require.Equal(t, "=", tag)
	require.Equal(t, 1, asked)
	require.Equal(t, "=", c.tag("N"), "statements that began before the rotation go on for a while")
	began := time.Now()
	_, err = c.try(seal([]byte("some third key that never was one"), "N"))
	require.Error(t, err)
	require.Equal(t, 2, asked)
	require.Greater(t, time.Since(began), refreshInterval/2, "mismatches cost at most one look a second")

	config := configOf(t, dir)
	_, err = pgconn.ConnectConfig(context.Background(), config)
	require.Error(t, err, "the old password opens no connection")
	config.Password = next.Password
	conn, err := pgconn.ConnectConfig(context.Background(), config)
	require.NoError(t, err)
	require.NoError(t, conn.Close(context.Background()))
	require.NoError(t, g.SetCredentials(secret))
	require.Equal(t, "=", connect(t, dir).tag("N"))
}

func TestLoginWithAPasswordChangedAMomentAgo(t *testing.T) {
	_, _, dir := start(t, func(o *Options) {
		o.Credentials.Password = "before"
		o.Refresh = func(context.Context) (Credentials, error) { return secret, nil }
	})
	require.Equal(t, "=", connect(t, dir).tag("N"))
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, _, dir := start(t, func(o *Options) {
		o.Listeners = append(o.Listeners, l)
		o.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	})
	config := configOf(t, dir)
	config.Host, config.Port = "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port)
	for _, settings := range []*tls.Config{nil, {InsecureSkipVerify: true}} {
		config.TLSConfig = settings
		conn, err := pgconn.ConnectConfig(context.Background(), config)
		require.NoError(t, err)
		c := &client{t, conn}
		require.Equal(t, "=8", c.tag(predict("echo 8")))
		require.Equal(t, ".", c.tag(predict("sleep 120ms")))
		require.Equal(t, "=slept 120ms", c.tag("W"))
		require.NoError(t, conn.CancelRequest(context.Background()))
		require.NoError(t, conn.Close(context.Background()))
	}
}

// What an attacker sends behind an SSLRequest must not be read as having come through TLS.
func TestBytesBehindAnSSLRequest(t *testing.T) {
	_, _, dir := start(t, func(o *Options) { o.TLS = &tls.Config{} })
	conn := dial(t, dir)
	_, err := conn.Write(append(startupPacket(codeSSLRequest), startupPacket(3<<16, "user", User)...))
	require.NoError(t, err)
	reply, _ := io.ReadAll(conn)
	require.NotContains(t, string(reply), mechanism)
}

func TestProtocolNegotiation(t *testing.T) {
	_, _, dir := start(t, nil)
	conn := dial(t, dir)
	_, err := conn.Write(startupPacket(3<<16|9999, "user", User, "_pq_.unheard", "1"))
	require.NoError(t, err)
	message, err := pgproto3.NewFrontend(conn, conn).Receive()
	require.NoError(t, err)
	require.Equal(t, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3<<16 | 2, UnrecognizedOptions: []string{"_pq_.unheard"}}, message)

	config := configOf(t, dir)
	config.MinProtocolVersion, config.MaxProtocolVersion = "3.2", "3.2"
	c, err := pgconn.ConnectConfig(context.Background(), config)
	require.NoError(t, err)
	require.Len(t, c.SecretKey(), 32)
	require.NoError(t, c.Close(context.Background()))
}
