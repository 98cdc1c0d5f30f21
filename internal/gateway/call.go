package gateway

import (
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// verb is the first letter of a call's body. Six of them are rowcast.Verbs, three those in another shape, the rest is between the SQL
// functions and the gateway.
type verb byte

const (
	verbPredict        = verb(rowcast.VerbPredict)
	verbLabel          = verb(rowcast.VerbLabel)
	verbProba          = verb(rowcast.VerbProba)
	verbJSON           = verb(rowcast.VerbJSON)
	verbInfer          = verb(rowcast.VerbInfer)
	verbTagProba       = verb('Q') // as the three above, but answered as a scalar is: in the tag, or to be fetched
	verbTagJSON        = verb('J')
	verbTagInfer       = verb('I')
	verbBatch          = verb(rowcast.VerbBatch)
	verbNoop           = verb('N')
	verbWait           = verb('W')
	verbRaise          = verb('E')
	verbFetch          = verb('F')
	verbUpload         = verb('U')
	verbValidateUpload = verb('V')
	verbValidateStored = verb('A')
	verbDrop           = verb('D')
	verbConverted      = verb('C') // a chunk of what the artifact was converted to, after V or A
	verbLogged         = verb('L') // one of the five answered in the tag, whose prediction is logged
)

// known reports whether a call may start with v.
func (v verb) known() bool { return strings.IndexByte("plPjiQJIBNWEFUVADCL", byte(v)) >= 0 }

// row reports whether the answer is a row; the others are answered in the command tag.
func (v verb) row() bool { return strings.IndexByte("PjiVAFC", byte(v)) >= 0 }

// wants is what the engine is asked for.
func (v verb) wants() rowcast.Verb {
	switch v {
	case verbTagProba:
		return rowcast.VerbProba
	case verbTagJSON:
		return rowcast.VerbJSON
	case verbTagInfer:
		return rowcast.VerbInfer
	}
	return rowcast.Verb(v)
}

// request is a parsed body. All strings point into the query's text.
type request struct {
	verb    verb
	spec    string
	model   string
	version int
	timeout string // as written; "" where the verb has none
	format  rowcast.Format
	payload string // features, hexadecimal chunk, or options
	upload  string
	chunk   int
	sha256  [32]byte
	log     string // header of a call that is logged; "" where it is not
}

const (
	macDigits    = 32
	specDigits   = 32
	maxNameBytes = 4 * 63 // a PostgreSQL identifier holds 63 bytes; four times that leaves room for other encodings
)

// sealed is a query's text with what proves that it comes from Rowcast's functions: a code over the body, CODE SP BODY, or, where nobody else can send
// anything over the connection, the token in the body's middle, VERB SP TOKEN REST.
type sealed struct {
	proof string // 32 lower-case hexadecimal digits
	token bool   // it is the token
	body  string // what the code is over
	verb  verb
	rest  string // of the body, behind the verb
}

// unseal parts a query's text; ok is false where it has no proof and so is no call at all.
func unseal(query string) (c sealed, ok bool) {
	if len(query) < macDigits+2 {
		return c, false
	}
	if c.token = query[1] == ' '; c.token {
		c.verb, c.proof, c.rest = verb(query[0]), query[2:2+macDigits], query[2+macDigits:]
	} else {
		c.proof, c.body = query[:macDigits], query[macDigits+1:]
		c.verb, c.rest = verb(c.body[0]), c.body[1:]
		if query[macDigits] != ' ' {
			return c, false
		}
	}
	for i := range macDigits {
		if !lowerHex(c.proof[i]) {
			return c, false
		}
	}
	return c, true
}

// parseBody parses a body whose proof was right. Its errors therefore mean that the installed SQL functions are of another version than the
// sidecar; they have CodeProtocol.
func parseBody(v verb, rest string) (request, *rowcast.Error) {
	if !v.known() {
		return request{}, malformed("unknown verb")
	}
	r := request{verb: v}
	switch r.verb {
	case verbLogged:
		return parseLogged(rest)
	case verbNoop, verbWait, verbRaise, verbFetch:
		if rest != "" {
			return r, malformed("text after the verb")
		}
		return r, nil
	}
	if rest == "" || rest[0] != ' ' {
		return r, malformed("no space after the verb")
	}
	rest = rest[1:]
	switch r.verb {
	case verbUpload, verbValidateUpload:
		id, payload, found := strings.Cut(rest, " ")
		if !found || !plainName(id) {
			return r, malformed("upload name")
		}
		r.upload, r.payload = id, payload
		return r, nil
	case verbConverted:
		n, err := strconv.ParseUint(rest, 10, 20)
		if err != nil {
			return r, malformed("chunk number")
		}
		r.chunk = int(n)
		return r, nil
	case verbDrop:
		if !plainName(rest) {
			return r, malformed("upload name")
		}
		r.upload = rest
		return r, nil
	case verbValidateStored:
		digits, payload, found := strings.Cut(rest, " ")
		if !found || len(digits) != 2*len(r.sha256) {
			return r, malformed("hash")
		}
		if _, err := hex.Decode(r.sha256[:], []byte(digits)); err != nil {
			return r, malformed("hash")
		}
		r.payload = payload
		return r, nil
	}
	return r.parseCall(rest)
}

// parseCall parses SPEC NAME@VERSION TIMEOUT FORMAT PAYLOAD.
func (r request) parseCall(rest string) (request, *rowcast.Error) {
	if len(rest) <= specDigits || rest[specDigits] != ' ' {
		return r, malformed("spec")
	}
	r.spec, rest = rest[:specDigits], rest[specDigits+1:]
	for i := range specDigits {
		if !lowerHex(r.spec[i]) {
			return r, malformed("spec")
		}
	}
	name, rest, found := strings.Cut(rest, " ")
	at := strings.LastIndexByte(name, '@')
	if !found || at < 1 || at > maxNameBytes {
		return r, malformed("model")
	}
	version, err := strconv.ParseUint(name[at+1:], 10, 31)
	if err != nil {
		return r, malformed("version")
	}
	r.model, r.version = name[:at], int(version)
	r.timeout, rest, found = strings.Cut(rest, " ")
	if !found || r.timeout == "" {
		return r, malformed("timeout")
	}
	if rest == "" {
		return r, malformed("format")
	}
	r.format = rowcast.Format(rest[0])
	formats := "btjr"
	if r.verb == verbBatch {
		formats = "msc"
	}
	if strings.IndexByte(formats, rest[0]) < 0 {
		return r, malformed("format")
	}
	r.payload = rest[1:]
	return r, nil
}

func malformed(what string) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeProtocol, "the sidecar does not understand this call: %s", what).
		WithHint("The SQL functions and the sidecar are of different versions. Run \"rowcast migrate up\" and restart the sidecar.")
}

// parseTimeout reads what the setting rowcast.timeout holds: "-" or 0 for the default, milliseconds, or a number with a unit as PostgreSQL
// writes them.
func parseTimeout(text string, byDefault time.Duration) (time.Duration, *rowcast.Error) {
	if text == "-" || text == "0" {
		return byDefault, nil
	}
	digits := len(text)
	for digits > 0 && text[digits-1] >= 'a' && text[digits-1] <= 'z' {
		digits--
	}
	units := map[string]time.Duration{"us": time.Microsecond, "": time.Millisecond, "ms": time.Millisecond, "s": time.Second,
		"min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	unit, ok := units[text[digits:]]
	number, err := strconv.ParseFloat(text[:digits], 64)
	if !ok || err != nil || !plainNumber(text[:digits]) || number*float64(unit) > math.MaxInt32*float64(time.Millisecond) {
		return 0, rowcast.Errorf(rowcast.CodeInvalidArgument, "invalid value for parameter \"rowcast.timeout\": %q", text).
			WithHint("A number of milliseconds, or a number with one of the units us, ms, s, min, h, d.")
	}
	if timeout := time.Duration(number * float64(unit)); timeout > 0 {
		return timeout, nil
	}
	return byDefault, nil
}

// plainNumber reports whether s is digits with at most one point: no sign, exponent, hexadecimal, NaN or infinity, all of which ParseFloat
// takes.
func plainNumber(s string) bool {
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && s[i] != '.' {
			return false
		}
	}
	return s != ""
}

func plainName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && strings.IndexByte(s, ' ') < 0
}

func lowerHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }
