package server

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Crumbs tell the supervisor which artifacts the worker was running when it died. They live in memory that both share: a header, then slots
// of one cache line each, in which a worker writes an artifact's hash before it enters ONNX Runtime and which it clears behind it. No call
// and no lock is needed, and what is written survives the worker, however it dies.
//
// Artifacts that were running beside others in a crash are suspects. They run one at a time from then on, so that the next crash names one.
type Crumbs struct {
	memory   []byte
	next     atomic.Uint32
	suspects map[[32]byte]bool // never written after the worker began
	solo     solo
	inSolo   []atomic.Bool // by slot: whether its run entered solo
}

const (
	crumbSize   = 64 // a cache line, so that slots in use by several cores do not slow each other down
	crumbSlots  = 256
	crumbHeader = crumbSize
	crumbBytes  = crumbHeader + crumbSlots*crumbSize

	crumbFree    = uint32(0)
	crumbTaken   = uint32(1) // the hash is being written
	crumbRunning = uint32(2)
)

// newCrumbs makes the shared memory. The file is what a worker inherits.
func newCrumbs() (*Crumbs, *os.File, error) {
	fd, err := unix.MemfdCreate("rowcast-crumbs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("memory for crumbs: %w", err)
	}
	file := os.NewFile(uintptr(fd), "rowcast-crumbs")
	if err := file.Truncate(crumbBytes); err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("memory for crumbs: %w", err)
	}
	c, err := OpenCrumbs(file.Fd())
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return c, file, nil
}

// OpenCrumbs maps the crumbs behind an inherited file descriptor.
func OpenCrumbs(fd uintptr) (*Crumbs, error) {
	memory, err := unix.Mmap(int(fd), 0, crumbBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the crumbs: %w", err)
	}
	return &Crumbs{memory: memory, inSolo: make([]atomic.Bool, crumbSlots)}, nil
}

// PrivateCrumbs are crumbs that nobody reads, for a server without a supervisor.
func PrivateCrumbs() *Crumbs {
	// Backed by 64-bit words: the states in it are used atomically.
	words := make([]uint64, crumbBytes/8)
	return &Crumbs{memory: unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), crumbBytes), inSolo: make([]atomic.Bool, crumbSlots)}
}

// Enter notes that the artifact is about to run and returns the slot for Leave: -1 where all are taken, which costs nothing but the crumb.
// Where the artifact is a suspect it first waits, for a second at most, until no other suspect runs.
func (c *Crumbs) Enter(sha [32]byte) int {
	solo := c.suspects[sha] && c.solo.enter(sha)
	for range crumbSlots {
		slot := int(c.next.Add(1) % crumbSlots)
		state := c.state(slot)
		if !atomic.CompareAndSwapUint32(state, crumbFree, crumbTaken) {
			continue
		}
		copy(c.slot(slot)[8:], sha[:])
		c.inSolo[slot].Store(solo)
		atomic.StoreUint32(state, crumbRunning)
		return slot
	}
	if solo {
		c.solo.leave()
	}
	return -1
}

// Leave clears the slot that Enter returned.
func (c *Crumbs) Leave(slot int) {
	if slot < 0 {
		return
	}
	solo := c.inSolo[slot].Load()
	atomic.StoreUint32(c.state(slot), crumbFree)
	if solo {
		c.solo.leave()
	}
}

// solo lets runs of one artifact in at a time, as many as there are.
type solo struct {
	mu   sync.Mutex
	sha  [32]byte
	runs int
	free chan struct{} // closed when runs falls to 0
}

// patience is how long one suspect waits for another. After that it runs beside it: a worse clue is better than a call that waits for ever.
const patience = time.Second

func (s *solo) enter(sha [32]byte) bool {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		if s.runs == 0 || s.sha == sha {
			if s.runs == 0 {
				s.sha, s.free = sha, make(chan struct{})
			}
			s.runs++
			s.mu.Unlock()
			return true
		}
		free := s.free
		s.mu.Unlock()
		select {
		case <-free:
		case <-timeout.C:
			return false
		}
	}
}

func (s *solo) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs--; s.runs == 0 {
		close(s.free)
	}
}

// MarkReady tells the supervisor that the worker serves. One that fails before is not started again.
func (c *Crumbs) MarkReady() { atomic.StoreUint32(c.header(0), 1) }

// MarkRecorded tells the supervisor that the verdicts it handed over are stored, so that it need not repeat them.
func (c *Crumbs) MarkRecorded() { atomic.StoreUint32(c.header(4), 1) }

func (c *Crumbs) ready() bool    { return atomic.LoadUint32(c.header(0)) == 1 }
func (c *Crumbs) recorded() bool { return atomic.LoadUint32(c.header(4)) == 1 }

// running returns the artifacts whose slots are not clear, each once.
func (c *Crumbs) running() [][32]byte {
	seen := map[[32]byte]bool{}
	var found [][32]byte
	for slot := range crumbSlots {
		if atomic.LoadUint32(c.state(slot)) != crumbRunning {
			continue
		}
		sha := [32]byte(c.slot(slot)[8:40])
		if !seen[sha] {
			seen[sha] = true
			found = append(found, sha)
		}
	}
	return found
}

// reset clears everything for the next worker.
func (c *Crumbs) reset() { clear(c.memory) }

func (c *Crumbs) slot(i int) []byte {
	return c.memory[crumbHeader+i*crumbSize : crumbHeader+(i+1)*crumbSize]
}

func (c *Crumbs) state(i int) *uint32 { return (*uint32)(unsafe.Pointer(&c.slot(i)[0])) }

func (c *Crumbs) header(at int) *uint32 { return (*uint32)(unsafe.Pointer(&c.memory[at])) }

// Suspect is an artifact that killed a worker, and how.
type Suspect struct {
	SHA256 [32]byte
	Reason string
}

// Verdicts are what the supervisor learned from crashes.
type Verdicts struct {
	Quarantine []Suspect  // artifacts that killed a worker: do not run them again until someone says so
	Suspects   [][32]byte // ran beside others in a crash, and are let run one at a time
}

// crash judges one crash. A sole artifact is guilty; of several, one that was a suspect before is: suspects do not run side by side.
// Otherwise all of them become suspects.
func (v *Verdicts) crash(running [][32]byte, how string) {
	guilty := false
	for _, sha := range running {
		switch {
		case len(running) == 1:
			v.convict(sha, fmt.Sprintf("the sidecar died (%s) while it ran this model alone", how))
		case slices.Contains(v.Suspects, sha):
			v.convict(sha, fmt.Sprintf("the sidecar died (%s) while it ran this model, twice", how))
		default:
			continue
		}
		guilty = true
	}
	if guilty {
		v.Suspects = nil // all that was known of the others is that they were there
		return
	}
	v.Suspects = append(v.Suspects, running...)
}

func (v *Verdicts) convict(sha [32]byte, reason string) {
	if !slices.ContainsFunc(v.Quarantine, func(s Suspect) bool { return s.SHA256 == sha }) {
		v.Quarantine = append(v.Quarantine, Suspect{sha, reason})
	}
}
