package server_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/cli"
)

// crowd runs what sessions do at the same time, each on a connection of its own, until stop is called.
type crowd struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	rounds []int     // of each session, that went well
	errs   [][]error // of each session
}

func gather() *crowd {
	c := &crowd{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// join adds a session, which does work again and again.
func (c *crowd) join(conn *pgx.Conn, work func(context.Context, *pgx.Conn) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	me := len(c.rounds)
	c.rounds, c.errs = append(c.rounds, 0), append(c.errs, nil)
	c.wg.Go(func() {
		for c.ctx.Err() == nil {
			err := work(context.Background(), conn)
			c.mu.Lock()
			if err == nil {
				c.rounds[me]++
			} else if c.errs[me] = append(c.errs[me], err); len(c.errs[me]) > 20 {
				c.mu.Unlock()
				return
			}
			c.mu.Unlock()
		}
	})
}

// await waits until each session has done n rounds more.
func (c *crowd) await(t *testing.T, n int) {
	t.Helper()
	c.mu.Lock()
	before := append([]int(nil), c.rounds...)
	c.mu.Unlock()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range before {
			if len(c.errs[i]) <= 20 && c.rounds[i] < before[i]+n {
				return false
			}
		}
		return true
	}, time.Minute, 5*time.Millisecond, "each session does %d more rounds", n)
}

// stop ends the sessions and returns each one's errors.
func (c *crowd) stop() [][]error {
	c.cancel()
	c.wg.Wait()
	return c.errs
}

func TestPromotionsUnderLoadFailNobodyAndFollowTheSnapshot(t *testing.T) {
	s := start(t)
	s.register(t, demo("iris"), "m")
	s.register(t, demo("iris_v2"), "m")
	admin := s.Conn(t)
	const row = "ARRAY[6.3, 2.5, 4.9, 1.5]"
	answers := map[int]string{}
	for version := 1; version <= 2; version++ {
		answers[version] = one[string](t, admin, fmt.Sprintf("SELECT predict_proba('m@%d', %s)::text", version, row))
	}
	require.NotEqual(t, answers[1], answers[2], "the versions can be told apart")

	c := gather()
	var mu sync.Mutex
	seen := make([]map[int]int, 4)
	for i := range seen {
		seen[i] = map[int]int{}
		c.join(s.Conn(t), func(ctx context.Context, conn *pgx.Conn) error {
			return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
				var used, champion int
				var answer string
				if err := tx.QueryRow(ctx, "SELECT (predict_json('m', "+row+") ->> 'version')::integer").Scan(&used); err != nil {
					return err
				}
				if err := tx.QueryRow(ctx, "SELECT predict_proba('m', "+row+")::text").Scan(&answer); err != nil {
					return err
				}
				err := tx.QueryRow(ctx, "SELECT version FROM ml.alias_history WHERE model = 'm' AND alias = 'champion' ORDER BY id DESC LIMIT 1").Scan(&champion)
				if err != nil {
					return err
				}
				if used != champion || answer != answers[champion] {
					return fmt.Errorf("the champion at the snapshot is version %d, predict used %d and answered %s", champion, used, answer)
				}
				mu.Lock()
				seen[i][used]++
				mu.Unlock()
				return nil
			})
		})
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range 300 {
		<-tick.C
		exec(t, admin, "SELECT ml.promote('m', $1)", 2-i%2)
	}
	c.await(t, 1)
	for i, errs := range c.stop() {
		require.Empty(t, errs, "session %d", i)
		require.Len(t, seen[i], 2, "session %d saw both versions: %v", i, seen[i])
	}
	require.Equal(t, 301, one[int](t, admin, "SELECT count(*)::integer FROM ml.alias_history WHERE model = 'm'"))
}

// interrupted reports whether the error is that of a statement_timeout or of a cancel request.
func interrupted(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "57014" && strings.HasPrefix(pg.Message, "canceling statement due to ")
}

// What an interrupted call leaves on the wire must not become the next call's answer or error, whatever kind of call that is.
func TestEveryKindOfCallFollowsAnInterruptedOne(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	conn := s.Conn(t)
	s.loop(t, conn, "endless")
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	const patient = "'{0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}'"
	calls := map[string]string{
		"predict":       "SELECT predict('diabetes', " + patient + ")::text",
		"predict_label": "SELECT predict_label('iris', " + irisRow + ")",
		"predict_proba": "SELECT predict_proba('iris', " + irisRow + ")::text",
		"predict_json":  "SELECT predict_json('iris', " + irisRow + ")::text",
		"infer":         `SELECT ml.infer('endless', '{"x": [[-1, -2]]}')::text`,
	}
	want := map[string]string{}
	for name, sql := range calls {
		want[name] = one[string](t, conn, sql)
	}
	interrupt := func(t *testing.T, after, sql string) {
		exec(t, conn, "SET statement_timeout = '"+after+"'")
		_, err := conn.Exec(context.Background(), sql)
		require.True(t, interrupted(err), "%s: %v", sql, err)
		exec(t, conn, "RESET statement_timeout")
	}
	for name, next := range calls {
		for _, slow := range []string{`SELECT ml.infer('endless', '{"x": [[1, 2]]}')`, "SELECT predict_json('endless', ARRAY[1, 2])"} {
			t.Run("a slow model, then "+name, func(t *testing.T) {
				for _, after := range []string{"30ms", "90ms", "130ms"} { // before and after the gateway first says that it takes longer
					interrupt(t, after, slow)
					require.Equal(t, want[name], one[string](t, conn, next), "after %s", after)
				}
			})
		}
		// Any call is slow where the sidecar is.
		for first, slow := range calls {
			t.Run("a slow sidecar at "+first+", then "+name, func(t *testing.T) {
				pid := p.worker(t)
				pause(t, pid)
				// Old minor releases of PostgreSQL 15 and 16 notice the timeout only when the answer comes.
				goOn := time.AfterFunc(2*time.Second, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
				defer goOn.Stop()
				defer func() { require.NoError(t, syscall.Kill(pid, syscall.SIGCONT)) }()
				interrupt(t, "30ms", strings.ReplaceAll(strings.ReplaceAll(slow, "5.1", "6.2"), "0.1", "0.2"))
				require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
				require.Equal(t, want[name], one[string](t, conn, next))
			})
		}
	}
}

// pause stops a process, all of its threads, as a machine that swaps would.
func pause(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		require.NoError(t, err)
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if _, state, _ := strings.Cut(string(text), ") "); err == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return len(threads) > 0
	}, 10*time.Second, time.Millisecond)
}

// Four sessions are interrupted all the time, by timeouts and by cancel requests; four others must not notice, and nobody ever gets an answer
// that belongs to another row, another model or another session.
func TestInterruptionsReachNobodyElse(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.loop(t, admin, "echo")
	s.register(t, demo("diabetes"))
	types := map[string]string{}
	for _, c := range readCSV(t, filepath.Join(demo("diabetes"), "data.csv")).columns {
		types[c] = "real"
	}
	load(t, admin, "patient", filepath.Join(demo("diabetes"), "data.csv"), types)
	want := one[[]float64](t, admin, "SELECT array_agg(predict('diabetes', p) ORDER BY id) FROM patient p")
	require.Greater(t, one[int](t, admin, "SELECT count(DISTINCT predict('diabetes', p))::integer FROM patient p"), len(want)*9/10, "rows can be told apart")

	// ask makes one call with a row of its own and checks that the answer is that row's.
	ask := func(ctx context.Context, conn *pgx.Conn, session int) error {
		k := rand.IntN(len(want))
		var got string
		var expected string
		var err error
		switch kind := rand.IntN(4); kind {
		case 0, 1:
			var value float64
			sql := "SELECT predict('diabetes', p) FROM patient p WHERE id = $1"
			if kind == 1 {
				sql = "SELECT (predict_json('diabetes', p) ->> 'value')::double precision FROM patient p WHERE id = $1"
			}
			err = conn.QueryRow(ctx, sql, k).Scan(&value)
			got, expected = fmt.Sprint(value), fmt.Sprint(want[k])
		case 2:
			expected = fmt.Sprintf("[[-%d, -%d]]", session+1, k+1)
			err = conn.QueryRow(ctx, "SELECT ml.infer('echo', jsonb_build_object('x', $1::jsonb)) ->> 'y'", expected).Scan(&got)
		default:
			var values []float64
			err = conn.QueryRow(ctx, "SELECT array_agg(predict('diabetes', p) ORDER BY id) FROM patient p WHERE id BETWEEN $1 AND $1 + 20", k).Scan(&values)
			got, expected = fmt.Sprint(values), fmt.Sprint(want[k:min(k+21, len(want))])
		}
		if err == nil && got != expected {
			err = fmt.Errorf("session %d asked for %s and got %s", session, expected, got)
		}
		return err
	}
	c := gather()
	var victims []uint32
	var mu sync.Mutex
	interruptions := 0
	for i := range 4 {
		conn := s.Conn(t)
		victims = append(victims, conn.PgConn().PID())
		c.join(conn, func(ctx context.Context, conn *pgx.Conn) error {
			timeout, sql := rand.IntN(40)+1, "SELECT sum(predict('diabetes', p)) FROM patient p"
			if rand.IntN(3) == 0 {
				timeout, sql = rand.IntN(150)+1, fmt.Sprintf(`SELECT ml.infer('echo', '{"x": [[%d, 1]]}')`, i)
				if rand.IntN(2) == 0 {
					sql = "SELECT predict_json('echo', ARRAY[1, 1])"
				}
			}
			_, err := conn.Exec(ctx, fmt.Sprintf("BEGIN; SET LOCAL statement_timeout = %d; %s; COMMIT", timeout, sql))
			if err != nil {
				if !interrupted(err) {
					return fmt.Errorf("after a timeout of %d ms: %w", timeout, err)
				}
				mu.Lock()
				interruptions++
				mu.Unlock()
			}
			for conn.PgConn().TxStatus() != 'I' { // a cancel request may meet the ROLLBACK
				_, _ = conn.Exec(ctx, "ROLLBACK")
			}
			for range 3 {
				if err := ask(ctx, conn, i); err != nil && !interrupted(err) {
					return err
				}
			}
			return nil
		})
	}
	for i := range 4 {
		c.join(s.Conn(t), func(ctx context.Context, conn *pgx.Conn) error { return ask(ctx, conn, 4+i) })
	}
	canceller := s.Conn(t)
	for range 200 {
		exec(t, canceller, "SELECT pg_cancel_backend($1)", victims[rand.IntN(len(victims))])
		exec(t, canceller, "SELECT pg_sleep(0.01)")
	}
	c.await(t, 3)
	for i, errs := range c.stop() {
		require.Empty(t, errs, "session %d", i)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Greater(t, interruptions, 20)
	t.Logf("%d statements were interrupted, rounds by session: %v", interruptions, c.rounds)
}

func TestRotationUnderLoadCostsNobodyMoreThanOneError(t *testing.T) {
	s := start(t)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	admin := s.Conn(t)
	const rotations = 5
	c := gather()
	for i := range 8 {
		c.join(s.Conn(t), func(ctx context.Context, conn *pgx.Conn) error {
			var answer string
			sql := "SELECT predict_label('iris', " + irisRow + ")"
			if i%2 == 1 {
				sql = "SELECT predict_json('iris', " + irisRow + ") ->> 'label'"
			}
			if err := conn.QueryRow(ctx, sql).Scan(&answer); err != nil {
				return err
			}
			if answer != "setosa" {
				return errors.New("another answer: " + answer)
			}
			return nil
		})
	}
	// A transaction whose snapshot is older than the rotations.
	old, err := s.Conn(t).BeginTx(context.Background(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = old.Rollback(context.Background()) }()
	require.Equal(t, "setosa", one[string](t, old.Conn(), "SELECT predict_label('iris', "+irisRow+")"))

	seen := map[string]bool{secret(t, admin): true}
	for range rotations {
		c.await(t, 20)
		var out, errOut strings.Builder
		require.Zero(t, cli.Main("test", []string{"gateway", "rotate", "--database-url", s.URL}, strings.NewReader(""), &out, &errOut), errOut.String())
		require.Equal(t, "The gateway has a new password and signing key.\n", out.String())
		seen[secret(t, admin)] = true
		require.Equal(t, "setosa", one[string](t, s.Conn(t), "SELECT predict_label('iris', "+irisRow+")"), "a new session, at once")
	}
	require.Len(t, seen, rotations+1, "a new password each time")
	c.await(t, 20)
	total := 0
	for i, errs := range c.stop() {
		total += len(errs)
		require.LessOrEqual(t, len(errs), rotations, "session %d, %d rotations: %v", i, rotations, errs)
	}
	t.Logf("%d errors in 8 sessions over %d rotations", total, rotations)
	require.Zero(t, total, "nobody has to notice: %v", c.errs)
}
