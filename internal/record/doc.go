// Package record writes the log of predictions for the sidecar: in bulk, in the background, and without losing any.
//
// # Back-pressure
//
// Record encodes a prediction as a row of binary COPY into the queue and returns; the queue is one buffer with bounds in rows and in bytes. While it is
// full Record waits, so the call that made the prediction waits, until its deadline. No prediction is answered that is not in the queue.
//
// # Writing
//
// One goroutine takes what has gathered, when an interval has passed or a batch is full, and writes it in one transaction with COPY. Rows count
// as queued until that transaction is committed. So the queue's bound is also the most that a crash of the process can lose.
//
// A transaction that fails because the database is away, full, or read-only is tried again until it succeeds. Where the connection breaks during
// COMMIT, nobody knows whether it took place; therefore each transaction also stores its number in the row that this recorder has in
// ml_private.recorder, and one that finds its number there does nothing. Each row is written exactly once. A row that PostgreSQL refuses for what it
// holds is found by halving the batch, reported and left out, so that it does not stop the others; none is known.
//
// # Stopping
//
// Stop writes what is queued and returns. When its context ends first, for instance because the database is away, it reports how many rows are lost.
package record
