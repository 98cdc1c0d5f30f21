package gateway

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// Time that a peer has for the rest of a large message once it began it, and for taking in a large answer.
const transferTimeout = time.Minute

const largeMessage = 64 << 10 // bytes; what is smaller is not worth a deadline and no accounting

// frames stands between a connection and its pgproto3.Backend. It shows the type and length of the next message before anything is allocated
// for it, and lets the Backend read no further than that message's end. So a message that is too large can be skipped, and the connection
// lives on.
type frames struct {
	conn net.Conn
	buf  *bufio.Reader
	left int // bytes of the current message that the Backend may still read
}

func newFrames(conn net.Conn) *frames {
	return &frames{conn: conn, buf: bufio.NewReaderSize(conn, 8<<10)}
}

// next waits for a message and returns its type and the length of its body in bytes; negative where the peer claims nonsense.
func (f *frames) next() (kind byte, size int, err error) {
	header, err := f.buf.Peek(5)
	if err != nil {
		return 0, 0, err
	}
	size = int(int32(binary.BigEndian.Uint32(header[1:]))) - 4
	f.left = 5 + max(size, 0)
	return header[0], size, nil
}

// Read reads from the current message.
func (f *frames) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	n, err := f.buf.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// skip reads the current message and hands its body to w.
func (f *frames) skip(w io.Writer) error {
	if _, err := f.buf.Discard(5); err != nil {
		return err
	}
	f.left -= 5
	_, err := io.CopyN(w, f, int64(f.left))
	return err
}
