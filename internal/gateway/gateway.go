package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"crypto/subtle"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Gateway serves calls on its listeners. The zero value is of no use; see New.
type Gateway struct {
	o     Options
	vault *vault

	slots       slots
	validations slots
	buffered    atomic.Int64 // bytes of large messages held
	uploaded    atomic.Int64 // bytes of uploads held
	connections atomic.Int64
	nextID      atomic.Uint32

	ctx      context.Context // for what is done on behalf of no call; ends when Stop gives up waiting
	cancel   context.CancelFunc
	stopping atomic.Bool

	asleep    atomic.Bool
	wakeUp    chan struct{}
	stopWatch chan struct{}

	goroutines sync.WaitGroup // accept loops, connections, calls
	watchdog   sync.WaitGroup
	lifecycle  sync.Mutex
	state      int // guarded by lifecycle
	stopped    chan struct{}

	mu       sync.Mutex
	conns    map[net.Conn]struct{} // all that are open, authenticated or not
	sessions map[uint32]*session
	orphans  map[*flight]struct{} // calls that nobody waits for and that still run
}

const (
	stateNew = iota
	stateStarted
	stateStopping
)

// Connections over MaxConnections that may at a time be told so; what is beyond that is closed without a word.
const refusalsAtATime = 32

// Time for the engine to end its calls after Stop cancelled them.
const killGrace = 3 * time.Second

// New makes a gateway. Credentials that are missing or unusable in o are no error: logins fail until SetCredentials or Refresh brings some.
func New(o Options) *Gateway {
	o = o.withDefaults()
	g := &Gateway{
		o:           o,
		vault:       newVault(o.Refresh),
		slots:       slots{free: make(chan struct{}, o.Concurrency), queue: int64(o.Queue)},
		validations: slots{free: make(chan struct{}, 2), queue: 64},
		wakeUp:      make(chan struct{}, 1),
		stopWatch:   make(chan struct{}),
		stopped:     make(chan struct{}),
		conns:       map[net.Conn]struct{}{},
		sessions:    map[uint32]*session{},
		orphans:     map[*flight]struct{}{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	_ = g.vault.set(o.Credentials)
	o.Metrics.gateway.Store(g)
	return g
}

// SetCredentials replaces the credentials. Open connections stay; calls sealed with the key before are taken for another day, as their
// statements may have begun before the rotation.
func (g *Gateway) SetCredentials(c Credentials) error { return g.vault.set(c) }

// Start serves in the background until Stop, or until ctx ends, which stops at once.
func (g *Gateway) Start(ctx context.Context) error {
	g.lifecycle.Lock()
	defer g.lifecycle.Unlock()
	if g.state != stateNew {
		return errors.New("the gateway was started before")
	}
	if g.o.Engine == nil || len(g.o.Listeners) == 0 {
		return errors.New("the gateway needs an engine and a listener")
	}
	g.state = stateStarted
	g.watchdog.Go(g.watch)
	for _, l := range g.o.Listeners {
		g.goroutines.Go(func() { g.accept(l) })
	}
	context.AfterFunc(ctx, func() { _ = g.Stop(ctx) })
	return nil
}

// Stop closes the listeners and the idle connections, lets the calls that run finish until ctx ends, and then cancels them. It returns when
// everything has ended, with an error where calls had to be cancelled or left behind. Calling it again waits for the first to end.
func (g *Gateway) Stop(ctx context.Context) error {
	g.lifecycle.Lock()
	before := g.state
	g.state = stateStopping
	g.lifecycle.Unlock()
	switch before {
	case stateStopping:
		<-g.stopped
		return nil
	case stateNew:
		for _, l := range g.o.Listeners {
			_ = l.Close()
		}
		close(g.stopped)
		return nil
	}
	defer close(g.stopped)
	g.stopping.Store(true)
	for _, l := range g.o.Listeners {
		_ = l.Close()
	}
	g.each(func(c net.Conn) { _ = c.SetReadDeadline(time.Now()) }) // wakes the idle, who then see that the gateway stops
	ended := make(chan struct{})
	go func() {
		g.goroutines.Wait()
		close(ended)
	}()
	err := g.drain(ctx, ended)
	g.cancel()
	close(g.stopWatch)
	g.watchdog.Wait()
	return err
}

func (g *Gateway) drain(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	g.cancel()
	canceled := g.cancelAll()
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	polite := time.NewTimer(killGrace / 6) // for the answers to go out
	defer polite.Stop()
	for {
		select {
		case <-ended:
			if canceled > 0 {
				return fmt.Errorf("%d calls were canceled", canceled)
			}
			return nil
		case <-polite.C:
			g.each(func(c net.Conn) { _ = c.Close() })
		case <-grace.C:
			running, _ := g.slots.load()
			return fmt.Errorf("%d calls ignore their cancellation and are left behind", running)
		}
	}
}

// cancelAll cancels every call and returns how many there were.
func (g *Gateway) cancelAll() (canceled int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sessions {
		if f := s.flight.Load(); f != nil {
			f.stop(f.canceled("the sidecar is stopping"))
			canceled++
		}
	}
	return canceled
}

func (g *Gateway) each(do func(net.Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		do(c)
	}
}

// accept takes connections until the listener is closed.
func (g *Gateway) accept(l net.Listener) {
	var pause time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			pause = 0
			g.goroutines.Go(func() { g.connect(newPollConn(conn)) })
			continue
		}
		if g.stopping.Load() || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors, most likely: waiting helps, giving up does not.
		pause = min(max(2*pause, 10*time.Millisecond), time.Second)
		g.o.Logger.Error("accepting a connection failed", "listener", l.Addr().String(), "error", err, "retry_ms", pause.Milliseconds())
		select {
		case <-time.After(pause):
		case <-g.ctx.Done():
			return
		}
	}
}

// connect takes a connection through startup and authentication and serves it.
func (g *Gateway) connect(conn net.Conn) {
	open := g.connections.Add(1)
	g.o.Metrics.Connections.Inc()
	raw := conn
	g.mu.Lock()
	g.conns[raw] = struct{}{}
	g.mu.Unlock()
	release := func() {
		g.mu.Lock()
		delete(g.conns, raw)
		g.mu.Unlock()
		g.connections.Add(-1)
		g.o.Metrics.Connections.Dec()
	}
	if open > int64(g.o.MaxConnections+refusalsAtATime) {
		g.o.Metrics.Refused.WithLabelValues("connections").Inc()
		_ = conn.Close()
		release()
		return
	}
	s, err := g.login(conn, open > int64(g.o.MaxConnections))
	if err != nil {
		_ = conn.Close()
		release()
		return
	}
	s.released = release
	s.serve()
}

// login does everything before the first call.
func (g *Gateway) login(conn net.Conn, full bool) (*session, error) {
	_ = conn.SetDeadline(time.Now().Add(g.o.AuthTimeout))
	if g.stopping.Load() { // the deadline above may have come after Stop's
		return nil, net.ErrClosed
	}
	peer := conn.RemoteAddr().String()
	conn, st, err := g.negotiate(conn)
	if errors.Is(err, errCancelRequest) {
		g.cancelRequest(&st.canceled)
		return nil, err
	}
	s := newSession(g, conn)
	user := ""
	if err == nil {
		if user = st.message.Parameters["user"]; full {
			err = &refusal{stateTooManyConnections, "connections", fmt.Sprintf("the sidecar has all the %d connections that it takes", g.o.MaxConnections)}
		} else {
			err = g.admit(conn, st)
		}
	}
	if err == nil {
		if st.minor > st.version() || len(st.unknown) > 0 {
			s.backend.Send(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 3<<16 | 2, UnrecognizedOptions: st.unknown})
		}
		err = g.authenticate(s.backend, s.frames, user)
	}
	if err == nil {
		g.enroll(s, st)
		if err = s.greet(); err != nil {
			g.mu.Lock()
			delete(g.sessions, s.id)
			g.mu.Unlock()
		}
	}
	var no *refusal
	switch {
	case errors.As(err, &no):
		g.o.Metrics.Refused.WithLabelValues(no.reason).Inc()
		g.o.Logger.Warn("connection refused", "peer", peer, "user", wireText(user), "error", no.text)
		s.backend.Send(fatalResponse(no.state, no.text))
		_ = s.backend.Flush()
	case err != nil:
		g.o.Metrics.Refused.WithLabelValues("broken").Inc()
		g.o.Logger.Debug("connection ended before it was authenticated", "peer", peer, "error", err)
	}
	return s, err
}

// enroll gives a session its id and secret and lists it.
func (g *Gateway) enroll(s *session, st *startup) {
	s.secret = make([]byte, 4)
	if st.version() >= 2 {
		s.secret = make([]byte, 32) // protocol 3.2 allows for long ones
	}
	_, _ = rand.Read(s.secret) // never fails
	g.mu.Lock()
	defer g.mu.Unlock()
	for s.id == 0 || g.sessions[s.id] != nil {
		s.id = g.nextID.Add(1) & 0x7fffffff
	}
	g.sessions[s.id] = s
}

// forget ends what enroll and connect began.
func (g *Gateway) forget(s *session) {
	g.mu.Lock()
	delete(g.sessions, s.id)
	g.mu.Unlock()
	s.released()
}

// cancelRequest cancels the call of the session that the request names. As PostgreSQL does, it tells the requester nothing.
func (g *Gateway) cancelRequest(r *pgproto3.CancelRequest) {
	g.mu.Lock()
	s := g.sessions[r.ProcessID]
	g.mu.Unlock()
	if s == nil || subtle.ConstantTimeCompare(s.secret, r.SecretKey) != 1 {
		return
	}
	if f := s.flight.Load(); f != nil {
		f.stop(f.canceled("on request of the client"))
	}
}
