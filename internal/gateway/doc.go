// Package gateway is where SQL reaches the sidecar: a server that speaks enough of PostgreSQL's wire protocol for dblink, and nothing else.
//
// # Connections
//
// A connection starts as PostgreSQL's do: TLS where asked for and configured, SCRAM-SHA-256 always, user rowcast, any database name. Until it
// is authenticated it may send small messages only and must be quick. Afterwards it takes simple queries whose text is a call:
//
//	MAC SP BODY           MAC = first 32 hexadecimal digits of sha256(key || BODY)
//	VERB SP TOKEN REST    the body VERB REST; TOKEN = first 32 hexadecimal digits of sha256("token" || key)
//
// Where dblink is for everybody, any role of the database may call its functions on a connection that a prediction left open, so the connection alone
// proves nothing. The code does: only the SQL functions' owner can read the key. What has no right code is answered with 28000 and changes nothing.
// Where dblink belongs to Rowcast alone (schema ml_private) nobody else can send anything or look at what is sent; there the token does, which
// saves PostgreSQL the code, a fifth of the time that a prediction's SQL takes. It is never sent over a connection that a role could open itself.
//
// # Calls
//
//	p l P j i  SPEC NAME@VERSION TIMEOUT FORMAT PAYLOAD    predict, label, probabilities, JSON, infer; SPEC is 32 hexadecimal digits
//	Q J I      the same as P j i, answered in the tag
//	B          the same with many rows, answered in the tag or to be fetched; FORMAT is m, s or c, see package rowcast. Where an error is about
//	           one row the answer is "!" and the error as JSON
//	N          nothing: a ping
//	W          wait on for the pending call
//	E          raise the error that the last call stored
//	F          fetch the value that was too long for the tag
//	U NAME HEX, V NAME OPTIONS, D NAME    upload a chunk of an artifact, validate the upload, drop it
//	A SHA256 OPTIONS                      validate an artifact that the database has already
//	L HEADER LF CALL                      one of p l Q J I whose prediction is logged; HEADER says how and for whom
//
// p l Q J I B N U D are answered in the command tag, which dblink_exec returns as text: the fastest way for a scalar. It is a status, followed by
// the value: "=" result, "!" error stored, "." pending, "~" result stored. P j i V A F are answered with one row (status, value). W is
// answered as the call it waits for. L is answered as its CALL, but where the caller's transaction writes the log the value is a JSON object of
// the answer and the row.
//
// The first answer to a call is never an ErrorResponse. With fail => false dblink makes the text ERROR of one, the same as of a lost
// connection, and with fail => true the SQL functions would need an EXCEPTION block, hence a subtransaction, which parallel workers cannot
// have. So the error is stored and a second call, E, raises it in full.
//
// # Long calls
//
// A call runs on the goroutine that read it, with no hand-over: what it costs beyond the engine is one context and two looks at the clock. A
// watchdog looks at all connections every 20 ms. When it finds a call that has run for 75 ms it takes the connection away from that goroutine
// (one compare-and-swap decides between it and the call's end), and a new one answers "." and goes on reading: so a hang-up is seen, a
// CancelRequest or another call can come, and the caller can ask for the result with W, which waits 100 ms at most. PostgreSQL checks for
// interrupts between two Ws.
//
// A call is cancelled, its context with a cause that becomes the error, when its deadline passes, its connection closes, anything but W
// follows it, no W comes for 2 s, a CancelRequest names it, or the gateway stops. A caller that waits is told so at once. The engine is
// expected to stop soon after; a call that runs on for 5 s is reported through Options.Stalled.
//
// # What an interrupted call leaves on the wire
//
// Measured with PostgreSQL 15.18 and 18.4, which behave alike: since dblink waits with PostgreSQL's interrupts enabled (PostgreSQL 17, also
// in current minor releases of 15), statement_timeout and ctrl-C end a call while its answer is on its way. Nothing tells the gateway; nobody
// reads the answer.
//
//   - After an interrupted dblink_exec libpq holds the connection for busy, whether or not the answer has come meanwhile. The next
//     dblink_exec returns ERROR at once ("another command is already in progress") and sends nothing: the functions reconnect, as after a
//     lost connection, and the old answer is gone with the old connection. So no call can get another call's answer.
//   - The next dblink (a row call) instead raises "could not send query" with SQLSTATE XX000, whatever fail says, and reads away what was
//     left. The same happens on a connection that was found lost before. Therefore the first call of an SQL function should be one that is
//     answered in the tag: Q J I exist for that, and cost one round trip less where the answer is short.
//   - After an interrupted dblink the connection is clean: it reads the rest of the answer before the error leaves it, which takes up to the
//     100 ms until "." comes.
//   - A dblink that waits with interrupts held off (older minor releases of 15 and 16; not measured) sees them when the answer has come, at
//     the latest when "." comes. Then the connection is clean, and the next call finds the call pending and cancels it.
//   - On a lost connection dblink_exec returns ERROR, dblink no row.
//
// libpq keeps 63 bytes of a command tag and checks no encoding in it, nor does dblink in rows: the gateway sends valid UTF-8 without NUL only.
//
// # Limits
//
// Connections, calls that run, calls that wait for that, a message's size before and after authentication, the sum of large messages, and the
// sum of uploads. A message that is too large is read over, not taken in, and answered with an error of its own; the connection goes on.
//
// # Credentials
//
// Both secrets can be replaced at any time. A login or a code that does not match makes the gateway ask Options.Refresh, at most once a
// second, and judge again: a rotation disturbs nobody, even where its notification is late.
//
// # Stopping
//
// Stop closes the listeners, then the idle connections. Calls that run go on, can be waited for, and their errors and values can be fetched.
// When its context ends, what still runs is cancelled.
package gateway
