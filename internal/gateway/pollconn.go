package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollConn is a connection that its goroutine waits for in poll(2), on a thread of its own, instead of in the Go scheduler's epoll. A caller that
// predicts row by row is a ping-pong of two processes, and what a turn costs is how often they wake each other. The scheduler's epoll also waits for
// room to write, which a unix socket announces whenever the peer has read: so each answer woke the sidecar once for nothing, at the caller's
// expense. And a goroutine that is ready costs the scheduler more than a thread that the kernel goes on with. Together that was a quarter to a third
// of a call's time. The price is a thread for each connection, which are as many as backends that predict.
type pollConn struct {
	local, remote net.Addr
	fd, wake      int // wake is an eventfd: somebody wants the reader to look again

	open          sync.RWMutex // held for reading while fd and wake are used, so that Close does not take them away
	closed        atomic.Bool
	waiting       atomic.Bool // the reader sleeps, or is about to
	readDeadline  atomic.Int64
	writeDeadline atomic.Int64 // as UnixNano; 0: none
}

// newPollConn takes conn over, or returns it as it is where that is not possible.
func newPollConn(conn net.Conn) net.Conn {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return conn
	}
	c := &pollConn{local: conn.LocalAddr(), remote: conn.RemoteAddr(), fd: -1}
	controlErr := raw.Control(func(fd uintptr) { c.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if controlErr != nil || err != nil {
		return conn
	}
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(c.fd)
		return conn
	}
	_ = conn.Close() // only its descriptor, and with it the scheduler's interest
	return c
}

// Read waits for data.
func (c *pollConn) Read(p []byte) (int, error) {
	c.open.RLock()
	defer c.open.RUnlock()
	c.waiting.Store(true) // before the first look at closed and the deadline: who changes them later sees this and wakes us
	defer c.waiting.Store(false)
	fds := [2]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.wake), Events: unix.POLLIN}}
	for {
		if c.closed.Load() {
			return 0, net.ErrClosed
		}
		timeout, err := remaining(c.readDeadline.Load())
		if err != nil {
			return 0, err
		}
		fds[0].Revents, fds[1].Revents = 0, 0
		if _, err := unix.Poll(fds[:], timeout); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			var counter [8]byte
			_, _ = unix.Read(c.wake, counter[:])
			continue
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := syscall.Read(c.fd, p)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write writes all of p.
func (c *pollConn) Write(p []byte) (n int, err error) {
	c.open.RLock()
	defer c.open.RUnlock()
	for n < len(p) {
		if c.closed.Load() {
			return n, net.ErrClosed
		}
		m, err := syscall.Write(c.fd, p[n:])
		n += max(m, 0)
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			timeout, err := remaining(c.writeDeadline.Load())
			if err != nil {
				return n, err
			}
			// Not for ever, since a deadline may be set meanwhile.
			if timeout < 0 || timeout > 100 {
				timeout = 100
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, timeout)
		default:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}

// remaining is a poll timeout in ms, rounded up, for a deadline.
func remaining(deadline int64) (int, error) {
	if deadline == 0 {
		return -1, nil
	}
	left := time.Until(time.Unix(0, deadline))
	if left <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return int(min((left+time.Millisecond-1)/time.Millisecond, 1<<30)), nil
}

// Close ends reads and writes that are under way, and waits for them.
func (c *pollConn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	c.wakeReader()
	c.open.Lock()
	defer c.open.Unlock()
	_ = unix.Close(c.wake)
	return os.NewSyscallError("close", unix.Close(c.fd))
}

func (c *pollConn) wakeReader() {
	if c.waiting.Load() {
		_, _ = unix.Write(c.wake, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// LocalAddr is the address that the peer connected to.
func (c *pollConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the peer's address.
func (c *pollConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *pollConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetWriteDeadline(t), c.SetReadDeadline(t))
}

// SetReadDeadline holds for a read that waits, too.
func (c *pollConn) SetReadDeadline(t time.Time) error {
	c.readDeadline.Store(nanos(t))
	c.open.RLock()
	defer c.open.RUnlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	c.wakeReader()
	return nil
}

// SetWriteDeadline holds for a write that waits, within 100 ms.
func (c *pollConn) SetWriteDeadline(t time.Time) error {
	c.writeDeadline.Store(nanos(t))
	return nil
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
