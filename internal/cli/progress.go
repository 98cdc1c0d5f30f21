package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/rowcast/rowcast/internal/jobclient"
)

const (
	linesEvery   = 5 * time.Second // between two lines where there is no terminal
	sidecarGrace = 3 * time.Second // a sidecar that is restarted is soon back; a job that begins is told at once
	noSidecar    = "No sidecar is connected to this database, so nothing runs the job yet. Start one with: rowcast serve"
)

// progressView shows what becomes of a job: a bar on a terminal, and lines elsewhere.
type progressView struct {
	id       int64
	w        io.Writer
	terminal *os.File // nil where there is none
	bar      *progressbar.ProgressBar
	quiet    bool // only what needs attention

	began    bool // the first update was shown
	lastLine time.Time
	lost     bool
	missing  time.Time // since when no sidecar is there
	alone    bool      // that was told
	paused   bool
	trouble  string // the error that was told, after which the job tries again
}

func newProgressView(a *app, id int64, quiet bool) *progressView {
	v := &progressView{id: id, w: a.errOut, quiet: quiet, lastLine: time.Now()}
	if file, ok := a.errOut.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		v.terminal = file
	}
	return v
}

func (v *progressView) onTerminal() bool { return v.terminal != nil }

// say prints a line of its own.
func (v *progressView) say(format string, args ...any) {
	v.clear()
	printf(v.w, format+"\n", args...)
}

// show tells what has changed, and how far the job is.
func (v *progressView) show(u jobclient.Update) {
	if u.Lost != nil {
		if !v.lost {
			v.say("PostgreSQL cannot be asked: %v. Trying again; the job is safe.", u.Lost)
			v.lost = true
		}
		return
	}
	if v.lost {
		v.say("PostgreSQL answers again.")
		v.lost = false
		v.missing = time.Time{} // the sidecar needs a moment, too
	}
	v.showState(u)
	j := u.Job
	if !v.began {
		v.began = true
		if !v.quiet {
			v.say("Job %d: %s", j.ID, work(j))
		}
	}
	switch {
	case j.Ended():
	case v.terminal != nil:
		v.draw(j)
	case !v.quiet && time.Since(v.lastLine) >= linesEvery:
		v.lastLine = time.Now()
		printf(v.w, "%s\n", line(j))
	}
}

// showState tells what keeps a job from going on.
func (v *progressView) showState(u jobclient.Update) {
	needed := !u.Sidecar && (u.Job.State == jobclient.StateQueued || u.Job.State == jobclient.StateRunning)
	switch {
	case !needed:
		v.missing = time.Time{}
		if v.alone && u.Sidecar {
			v.say("A sidecar is connected.")
			v.alone = false
		}
	case v.missing.IsZero():
		v.missing = time.Now()
		fallthrough
	default:
		if !v.alone && (!v.began || time.Since(v.missing) >= sidecarGrace) {
			v.say("%s", noSidecar)
			v.alone = true
		}
	}
	if j := u.Job; j.RetryAt != nil && j.Error != "" && !j.Ended() && j.Error != v.trouble {
		v.say("Job %d waits: %s. It tries again by itself at %s.", j.ID, j.Error, j.RetryAt.Local().Format(time.TimeOnly))
		v.trouble = j.Error
	} else if j.RetryAt == nil {
		v.trouble = ""
	}
	if paused := u.Job.State == jobclient.StatePaused; paused != v.paused {
		v.paused = paused
		if paused {
			v.say("Job %d is paused. Let it go on with: rowcast job resume %d", v.id, v.id)
		} else {
			v.say("Job %d goes on.", v.id)
		}
	}
}

func (v *progressView) draw(j *jobclient.Job) {
	total := int64(-1)
	if j.RowsTotal != nil {
		total = max(*j.RowsTotal, 1)
	}
	if v.bar == nil || v.bar.GetMax64() != total {
		v.clear()
		v.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(v.terminal), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(0),
			progressbar.OptionSetSpinnerChangeInterval(0)) // by updates, not by a goroutine that draws over a question
	}
	v.bar.Describe(line(j))
	_ = v.bar.Set64(min(done(j), max(total-1, 0))) // a bar that is full goes away
}

// clear takes the bar off the terminal.
func (v *progressView) clear() {
	if v.bar != nil {
		_ = v.bar.Clear()
		v.bar = nil
	}
}

func (v *progressView) close() { v.clear() }

// done is how many rows are dealt with.
func done(j *jobclient.Job) int64 { return j.RowsDone + j.RowsSkipped }

// work says what a job is about.
func work(j *jobclient.Job) string {
	by := j.Model
	if j.Version > 0 {
		by = fmt.Sprintf("%s version %d", j.Model, j.Version)
	}
	return fmt.Sprintf("%s scores %s into %s (%s)", by, short(j.Source), j.Target, j.Mode)
}

// short cuts a query down to what fits a line.
func short(source string) string {
	source = strings.Join(strings.Fields(source), " ")
	if r := []rune(source); len(r) > 60 {
		source = string(r[:59]) + "…"
	}
	return source
}

// line is a job's progress in one line.
func line(j *jobclient.Job) string {
	parts := []string{fmt.Sprintf("job %d: %s", j.ID, rowsOf(j))}
	if j.State != jobclient.StateRunning {
		parts = append(parts, j.State)
	}
	if j.RowsSkipped > 0 {
		parts = append(parts, count(j.RowsSkipped)+" skipped")
	}
	if j.State == jobclient.StateRunning && j.RowsPerSecond > 0 {
		parts = append(parts, count(int64(j.RowsPerSecond))+" rows/s")
	}
	if left := timeLeft(j); left != "" {
		parts = append(parts, left+" left")
	}
	return strings.Join(parts, ", ")
}

// rowsOf is "312,000 of 1,000,000 rows", or without the total where it is not known.
func rowsOf(j *jobclient.Job) string {
	if j.RowsTotal == nil {
		return count(done(j)) + " rows"
	}
	return count(done(j)) + " of " + count(*j.RowsTotal) + " rows"
}

// timeLeft is empty where nobody can tell.
func timeLeft(j *jobclient.Job) string {
	if j.State != jobclient.StateRunning || j.SecondsLeft == nil {
		return ""
	}
	return (time.Duration(*j.SecondsLeft+0.5) * time.Second).String()
}

// summary is the last line of a job that is done.
func summary(j *jobclient.Job) string {
	took := j.Took().Seconds()
	text := fmt.Sprintf("%s rows in %s s", count(j.RowsDone), strconv.FormatFloat(took, 'f', 1, 64))
	if took > 0 {
		text += fmt.Sprintf(", %s rows/s", count(int64(float64(done(j))/took)))
	}
	text += fmt.Sprintf(", into %s by %s version %d.", j.Target, j.Model, j.Version)
	switch {
	case j.RowsSkipped == 1:
		text += " 1 row was skipped."
	case j.RowsSkipped > 1:
		text += fmt.Sprintf(" %s rows were skipped.", count(j.RowsSkipped))
	}
	return text
}

// count writes a whole number with commas.
func count(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
