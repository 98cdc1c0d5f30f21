package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/xdg-go/scram"
)

// Credentials are the two secrets of a database's gateway: the password that opens a connection, held by the foreign server's user mapping,
// and the key that every call proves to know, held where only the SQL functions' owner can read it.
type Credentials struct {
	Password string
	Key      []byte // at least 16 bytes
}

const (
	// Iterations make each guess at a password slower. The one that `rowcast migrate up` makes is 32 random bytes and cannot be guessed,
	// while 4096 iterations take a PostgreSQL backend 3 ms for each connection, every parallel worker's included. So they are for passwords
	// made by hand.
	scramIterations   = 4096
	randomPasswordLen = 32
	minKeyBytes       = 16
	// A statement or transaction that began before a rotation goes on with the key it saw, however long it runs over night. Rotating twice cuts it off.
	previousKeyGrace = 24 * time.Hour
	refreshInterval  = time.Second
	refreshTimeout   = 5 * time.Second
)

// secrets is one generation of credentials, ready to check against. It is never written after it was made.
type secrets struct {
	generation  uint64
	password    string
	stored      scram.StoredCredentials
	calls       callKey
	previous    callKey
	previousEnd time.Time
}

// callKey is what proves that a call comes from Rowcast's functions.
type callKey struct {
	key   []byte // of the code over a call's body; nil where nothing is known yet
	token string // 32 hexadecimal digits
}

func newCallKey(key []byte) callKey {
	digest := sha256.Sum256(append([]byte("token"), key...))
	return callKey{key: append([]byte(nil), key...), token: hex.EncodeToString(digest[:macDigits/2])}
}

// holds reports whether c is sealed with k.
func (k *callKey) holds(s *sealer, c *sealed) bool {
	proof := bytesOf(k.token)
	if !c.token {
		proof = s.code(k.key, c.body)
	}
	return subtle.ConstantTimeCompare(proof, bytesOf(c.proof)) == 1
}

// vault holds the current secrets and fetches new ones where they do not match.
type vault struct {
	salt    string // the same for every generation, so that a login under way can be judged by the next one
	current atomic.Pointer[secrets]
	refresh func(context.Context) (Credentials, error)

	setting    sync.Mutex
	refreshing sync.Mutex
	refreshed  time.Time
}

var errNoCredentials = errors.New("the gateway has no credentials yet")

func newVault(refresh func(context.Context) (Credentials, error)) *vault {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	v := &vault{salt: string(salt), refresh: refresh}
	v.current.Store(&secrets{})
	return v
}

// set makes c the current credentials. The same ones again change nothing.
func (v *vault) set(c Credentials) error {
	if c.Password == "" || len(c.Key) < minKeyBytes {
		return errNoCredentials
	}
	v.setting.Lock()
	defer v.setting.Unlock()
	old := v.current.Load()
	if old.password == c.Password && subtle.ConstantTimeCompare(old.calls.key, c.Key) == 1 {
		return nil
	}
	next := &secrets{generation: old.generation + 1, password: c.Password, calls: newCallKey(c.Key)}
	if old.calls.key != nil {
		next.previous, next.previousEnd = old.calls, time.Now().Add(previousKeyGrace)
	}
	var err error
	if next.stored, err = v.derive(c.Password); err != nil {
		return err
	}
	v.current.Store(next)
	return nil
}

// derive computes what SCRAM checks a password by. Like libpq it takes a password that SASLprep refuses as it is.
func (v *vault) derive(password string) (scram.StoredCredentials, error) {
	factors := scram.KeyFactors{Salt: v.salt, Iters: scramIterations}
	if len(password) >= randomPasswordLen {
		factors.Iters = 1
	}
	if client, err := scram.SHA256.NewClient(User, password, ""); err == nil {
		return client.GetStoredCredentialsWithError(factors)
	}
	client, err := scram.SHA256.NewClientUnprepped(User, password, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return client.GetStoredCredentialsWithError(factors)
}

// renewed returns secrets newer than old, asking Refresh at most once a second, or nil where there are none.
func (v *vault) renewed(ctx context.Context, old *secrets) (*secrets, error) {
	newer := func() *secrets {
		if now := v.current.Load(); now.generation != old.generation {
			return now
		}
		return nil
	}
	if s := newer(); s != nil || v.refresh == nil {
		return s, nil
	}
	began := time.Now()
	v.refreshing.Lock() // the others wait for the one that asks, and then see what it got
	defer v.refreshing.Unlock()
	if s := newer(); s != nil || v.refreshed.After(began) {
		return s, nil
	}
	// What was asked before this mismatch came cannot tell: wait until it may be asked again, rather than refuse who has newer secrets.
	select {
	case <-time.After(time.Until(v.refreshed.Add(refreshInterval))):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	v.refreshed = time.Now()
	if s := newer(); s != nil {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	c, err := v.refresh(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.set(c); err != nil {
		return nil, err
	}
	return newer(), nil
}

// sealer computes call codes. It belongs to one connection.
type sealer struct {
	hash hash.Hash
	sum  [sha256.Size]byte
	text [macDigits]byte
}

// code returns the code of a body under key: the first 32 hexadecimal digits of sha256(key || body). Half of the digest is kept back, so that
// no code can be extended to that of a longer body. The result is valid until the next call.
func (c *sealer) code(key []byte, body string) []byte {
	c.start(key)
	_, _ = c.hash.Write(bytesOf(body))
	return c.finish()
}

func (c *sealer) start(key []byte) {
	if c.hash == nil {
		c.hash = sha256.New()
	}
	c.hash.Reset()
	_, _ = c.hash.Write(key)
}

func (c *sealer) finish() []byte {
	hex.Encode(c.text[:], c.hash.Sum(c.sum[:0])[:macDigits/2])
	return c.text[:]
}

// matches reports whether a call is sealed with the current key, the previous one for a while, or one that a refresh brings.
func (v *vault) matches(ctx context.Context, s *sealer, c *sealed) (bool, error) {
	now := v.current.Load()
	if now.calls.key != nil && now.calls.holds(s, c) {
		return true, nil
	}
	if now.previous.key != nil && time.Now().Before(now.previousEnd) && now.previous.holds(s, c) {
		return true, nil
	}
	now, err := v.renewed(ctx, now)
	return now != nil && now.calls.holds(s, c), err
}

// bytesOf is s as bytes without a copy. They must not be written to.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
