package cli_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// withIris gives a database the table iris and a model for it. The sidecar that registered it is stopped by the function.
func withIris(t *testing.T) (db database, stop func()) {
	t.Helper()
	db = database{pgtest.New(t)}
	db.does(t, "migrate", "up", "--gateway", freeAddress(t))
	stop = db.serve(t)
	db.does(t, "model", "register", demo("iris", "model.onnx"))
	db.Exec(t, "CREATE TABLE iris (id bigint PRIMARY KEY, sepal_length real, sepal_width real, petal_length real, petal_width real, species text)")
	file, err := os.Open(demo("iris", "data.csv"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	_, err = db.Conn(t).PgConn().CopyFrom(t.Context(), file, "COPY iris FROM STDIN (FORMAT csv, HEADER)")
	require.NoError(t, err)
	return db, stop
}

// lines collects what a process prints, for somebody who waits for a part of it.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until part has been printed so many times.
func (l *lines) await(t *testing.T, part string, times int) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(l.String(), part) >= times }, time.Minute, 10*time.Millisecond, "%q in %s", part, l)
}

const (
	noSidecarLine = "No sidecar is connected to this database, so nothing runs the job yet. Start one with: rowcast serve"
	noSidecar     = noSidecarLine + "\n"
)

var scoreIris = []string{"score", "iris", "--source", "iris", "--target", "scores", "--key", "id"}

// state is a job's.
func (db database) state(t *testing.T, id int) string {
	t.Helper()
	return one[string](t, db, "SELECT state FROM ml.jobs WHERE id = $1", id)
}

// Without a sidecar jobs are started and steered all the same, and the command says that nobody runs them.
func TestSteeringJobsWithoutASidecar(t *testing.T) {
	db, stop := withIris(t)
	require.Equal(t, "No jobs. Start one: rowcast score MODEL --source TABLE --target TABLE --key COLUMN\n", db.does(t, "job", "list"))
	require.JSONEq(t, `[]`, db.does(t, "job", "list", "--json"))
	stop()
	status, out, errOut := rowcast(append(scoreIris, "--detach", "--database-url", db.URL)...)
	require.Zero(t, status)
	require.Equal(t, noSidecar, errOut)
	require.Equal(t, "Job 1: iris version 1 scores iris into scores (create)\nWatch it with: rowcast job watch 1\n", out)

	status, out, errOut = rowcast("score", "iris@1", "--source", "SELECT *\n  FROM iris WHERE id > 10", "--target", "other", "--key", "id", "--new-rows", "--on-error", "skip",
		"--chunk-rows", "5000", "--probabilities", "--unlogged", "--error-table", "bad", "--detach", "--json", "--database-url", db.URL)
	require.Zero(t, status)
	require.Equal(t, noSidecar, errOut)
	require.JSONEq(t, `{"id": 2, "model": "iris", "version": 1, "source": "SELECT *\n  FROM iris WHERE id > 10", "target": "other", "key": "id", "mode": "append",
		"on_error": "skip", "state": "queued", "rows_total": null, "rows_done": 0, "rows_skipped": 0, "rows_per_second": 0, "seconds_left": null,
		"started_by": "postgres", "created_at": "TIME", "started_at": null, "finished_at": null, "phase": "plan"}`, timeless(out))
	require.JSONEq(t, `{"chunk_rows": 5000, "unlogged": true, "probabilities": true, "new_rows": true, "error_table": "bad"}`,
		one[string](t, db, "SELECT options::text FROM ml_private.job WHERE id = 2"))

	require.Equal(t, `JOB  STATE   MODEL   ROWS    ROWS/S  LEFT  TARGET  STARTED BY  CREATED
2    queued  iris@1  0 rows  -       -     other   postgres    TIME
1    queued  iris@1  0 rows  -       -     scores  postgres    TIME
`, timeless(db.does(t, "job", "list")))
	require.Equal(t, "Job 2 is paused: 0 rows.\n", db.does(t, "job", "pause", "2"))
	require.Equal(t, "Job 2 is queued: 0 rows.\n", db.does(t, "job", "resume", "2"))
	require.Equal(t, "Job 2 is canceled: 0 rows.\n", db.does(t, "job", "cancel", "2"))
	var jobs []struct {
		ID    int
		State string
	}
	require.NoError(t, json.Unmarshal([]byte(db.does(t, "job", "list", "--state", "canceled", "--json")), &jobs))
	require.Len(t, jobs, 1)
	require.Equal(t, 2, jobs[0].ID)
	require.Contains(t, db.does(t, "job", "list", "--model", "churn"), "No jobs.")
	require.Equal(t, `Job         1
State       queued
Model       iris version 1
Source      iris
Target      scores (create)
Key         id
Bad rows    stop
Rows        0 rows
Started by  postgres
Created     TIME
`, timeless(db.does(t, "job", "show", "1")))

	for line, says := range map[string]string{
		"job show 99":   "there is no job 99 that you may see",
		"job watch 99":  "there is no job 99 that you may see",
		"job pause 99":  "job 99 does not exist",
		"job cancel 99": "job 99 does not exist",
		"job pause 2":   "job 2 is canceled and cannot be paused",
		"job resume 2":  "job 2 is canceled, not paused",
		"score iriss --source i --target t --key id":                      `Did you mean "iris"?`,
		"score iris --source i --target t --key id --chunk-rows 10000001": `option "chunk_rows" is 10000001`,
		"schedule remove nightly":                                         `schedule "nightly" does not exist`,
	} {
		require.Contains(t, db.fails(t, 1, strings.Fields(line)...), says, line)
	}
	e := db.fails(t, 1, "job", "watch", "2")
	require.Contains(t, e, "rowcast: job 2 was canceled after 0 rows; other is as it was before\n")
	require.Contains(t, e, "hint: rowcast job retry 2 begins it anew.\n")
}

func TestSchedules(t *testing.T) {
	db, _ := withIris(t)
	require.Contains(t, db.does(t, "schedule", "list"), "No schedules.")
	require.Equal(t, "nightly: iris into scores at 0 3 * * *\n",
		db.does(t, "schedule", "add", "nightly", "0 3 * * *", "iris", "--source", "iris", "--target", "scores", "--key", "id"))
	require.JSONEq(t, `{"name": "weekly", "id": 2}`, db.does(t, "schedule", "add", "weekly", "@weekly", "iris@champion", "--source", "iris", "--target", "scores",
		"--key", "id", "--replace", "--json"))
	list := db.does(t, "schedule", "list")
	require.Regexp(t, `(?m)^NAME +CRON +ZONE +MODEL +SOURCE +TARGET +MODE +NEXT +LAST JOB +ERROR$`, list)
	require.Regexp(t, `(?m)^nightly +0 3 \* \* \* +\S+ +iris +iris +scores +append `, list)
	require.Regexp(t, `(?m)^weekly +@weekly +\S+ +iris@champion +iris +scores +replace `, list)
	var schedules []struct {
		Name    string
		Mode    string
		Options map[string]any
		LastJob *int64 `json:"last_job"`
	}
	require.NoError(t, json.Unmarshal([]byte(db.does(t, "schedule", "list", "--json")), &schedules))
	require.Len(t, schedules, 2)
	require.Equal(t, map[string]any{"new_rows": true}, schedules[0].Options)
	require.Equal(t, "replace", schedules[1].Mode)
	require.Empty(t, schedules[1].Options)
	require.Nil(t, schedules[1].LastJob)
	require.Contains(t, db.fails(t, 1, "schedule", "add", "bad", "0 3 * *", "iris", "--source", "iris", "--target", "scores", "--key", "id"), "has 4 fields")
	require.Contains(t, db.fails(t, 1, "schedule", "add", "nightly", "0 3 * * *", "iris", "--source", "iris", "--target", "scores", "--key", "id"), "exists already")
	require.Equal(t, "Schedule nightly is gone.\n", db.does(t, "schedule", "remove", "nightly"))
	require.JSONEq(t, `{"name": "weekly"}`, db.does(t, "schedule", "remove", "weekly", "--json"))
	require.JSONEq(t, `[]`, db.does(t, "schedule", "list", "--json"))
}

// A signal where there is no terminal leaves the job to itself.
func TestASignalDetaches(t *testing.T) {
	db, stop := withIris(t)
	stop()
	for i, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		id := i + 1
		var out, errOut lines
		cmd := db.program(t, scoreIris...)
		cmd.Stdout, cmd.Stderr = &out, &errOut
		require.NoError(t, cmd.Start())
		errOut.await(t, "Job ", 1)
		require.NoError(t, cmd.Process.Signal(sig))
		_ = cmd.Wait()
		require.Equal(t, 3, cmd.ProcessState.ExitCode(), "%s", &errOut)
		require.Empty(t, out.String())
		require.Equal(t, noSidecar+fmt.Sprintf(`Job %d: iris version 1 scores iris into scores (create)
Job %d goes on without this command.
  watch it:  rowcast job watch %d
  cancel it: rowcast job cancel %d
`, id, id, id, id), errOut.String())
		require.Equal(t, "queued", db.state(t, id))
	}
}

// onTerminal starts a command on a terminal of its own.
func (db database) onTerminal(t *testing.T, args ...string) (cmd *exec.Cmd, screen *lines, keys io.Writer) {
	t.Helper()
	cmd = db.program(t, args...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 160})
	require.NoError(t, err)
	screen = &lines{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(screen, terminal) // ends with an error when the program has ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if the test failed
		<-done
		_ = terminal.Close()
	})
	return cmd, screen, terminal
}

const question = "(c)ancel it, (d)etach, or (g)o on waiting? "

// On a terminal ctrl-C asks.
func TestCtrlCAsks(t *testing.T) {
	db, stop := withIris(t)
	stop()
	const ctrlC, ctrlD = "\x03", "\x04"
	for i, test := range []struct {
		name   string
		typed  []string // after each question
		status int
		state  string
		says   string
	}{
		{"go on, then what makes no sense, then detach", []string{"g\r", "what?\r", "d\r"}, 3, "queued", "goes on without this command.\r\n"},
		{"nothing means go on; cancel", []string{"\r", "c\r"}, 1, "canceled", "was canceled after 0 rows"},
		{"a second ctrl-C cancels", []string{ctrlC}, 1, "canceled", "was canceled after 0 rows"},
		{"nobody there any more", []string{ctrlD}, 3, "queued", "goes on without this command.\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := i + 1
			cmd, screen, terminal := db.onTerminal(t, scoreIris...)
			press := func(keys string) {
				_, err := terminal.Write([]byte(keys))
				require.NoError(t, err)
			}
			const bar = "0 rows, queued"
			screen.await(t, bar, 1)
			press(ctrlC)
			for n, typed := range test.typed {
				screen.await(t, question, n+1)
				drawn := strings.Count(screen.String(), bar)
				press(typed)
				if typed == "g\r" || typed == "\r" {
					screen.await(t, bar, drawn+1)
					press(ctrlC)
				}
			}
			_ = cmd.Wait()
			require.Equal(t, test.status, cmd.ProcessState.ExitCode(), "%s", screen)
			screen.await(t, test.says, 1) // the terminal passes it on a moment later
			require.Contains(t, screen.String(), noSidecarLine)
			require.Equal(t, test.state, db.state(t, id))
		})
	}
}

// irisLabels are what the framework predicts.
func irisLabels(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open(demo("iris", "expected.csv"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	records, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	labels := map[string]string{}
	for _, r := range records[1:] {
		labels[r[0]] = r[1]
	}
	return labels
}

// A job from its start to its end; the first one waits for a sidecar that is not there yet.
func TestAJobFromTheCommandLine(t *testing.T) {
	db, stop := withIris(t)
	stop()
	var out, errOut lines
	cmd := db.program(t, scoreIris...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.NoError(t, cmd.Start())
	errOut.await(t, noSidecar, 1)
	db.serve(t)
	require.NoError(t, cmd.Wait(), "%s", &errOut)
	require.Regexp(t, `^150 rows in [0-9.]+ s, [0-9,]+ rows/s, into scores by iris version 1\.\n$`, out.String())
	require.Contains(t, errOut.String(), "A sidecar is connected.\n")
	want := irisLabels(t)
	rows, err := db.Conn(t).Query(t.Context(), "SELECT id::text, label FROM scores")
	require.NoError(t, err)
	got := map[string]string{}
	for rows.Next() {
		var id, label string
		require.NoError(t, rows.Scan(&id, &label))
		got[id] = label
	}
	require.NoError(t, rows.Err())
	require.Equal(t, want, got)

	// Once more: refused, replaced, and as JSON.
	e := db.failsAfter(t, scoreIris...)
	require.Contains(t, e, "rowcast: job 2 failed: ")
	require.Contains(t, e, "scores")
	require.Contains(t, e, "SQLSTATE 42P07")
	status, text, _ := rowcast(append(scoreIris, "--replace", "--json", "--database-url", db.URL)...)
	require.Zero(t, status)
	var j map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &j))
	require.Equal(t, "done", j["state"])
	require.InDelta(t, 150, j["rows_done"], 0)
	require.Equal(t, 150, one[int](t, db, "SELECT count(*)::integer FROM scores"))

	// A row that the model cannot take.
	db.Exec(t, "INSERT INTO iris VALUES (1000, 1, NULL, 1, 1, 'none')")
	e = db.failsAfter(t, "score", "iris", "--source", "iris", "--target", "scores", "--key", "id", "--replace")
	require.Contains(t, e, "sepal_width")
	require.Contains(t, e, "SQLSTATE 22004")
	status, text, _ = rowcast(append(scoreIris, "--replace", "--on-error", "skip", "--database-url", db.URL)...)
	require.Zero(t, status)
	require.Contains(t, text, " 1 row was skipped.")
	require.Contains(t, db.failsAfter(t, "score", "iris", "--source", "no_such_table", "--target", "t", "--key", "id"), "no_such_table")
}

// failsAfter runs a command whose job fails, and returns the error.
func (db database) failsAfter(t *testing.T, args ...string) string {
	t.Helper()
	status, out, errOut := rowcast(append(args, "--database-url", db.URL)...)
	require.Equal(t, 1, status, "%s%s", out, errOut)
	require.Empty(t, out)
	return errOut
}
