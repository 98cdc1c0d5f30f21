package score

import (
	"io"
	"sync/atomic"
)

// counter gathers the rows of a COPY into larger pieces, and counts them: each message is one.
type counter struct {
	sink   io.Writer
	rows   *atomic.Int64
	buf    []byte
	failed bool // the sink did, not the source
}

const pieceBytes = 64 << 10

// Write takes a message of the COPY.
func (c *counter) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	c.rows.Add(1)
	if len(c.buf) < pieceBytes {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *counter) flush() error {
	_, err := c.sink.Write(c.buf)
	c.buf = c.buf[:0]
	c.failed = err != nil
	return err
}
