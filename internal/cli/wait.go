package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// cancelIn is how long a request to cancel may take; a second ctrl-C must not hang on a database that is away.
const cancelIn = 5 * time.Second

// waiting is one command that waits for a job.
type waiting struct {
	a       *app
	jobs    *jobclient.Client
	id      int64
	signals <-chan os.Signal
	updates chan jobclient.Update
	ended   chan watched
	view    *progressView
}

// watched is how a watch ended.
type watched struct {
	job *jobclient.Job
	err error
}

// await shows a job's progress until it has ended, or until a signal makes the command leave it. Signals are not those of ctx: a ctrl-C must not break
// off what is being asked.
func (a *app) await(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, id int64, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	asJSON, _ := cmd.Flags().GetBool("json")
	w := &waiting{
		a: a, jobs: jobs, id: id, signals: signals, updates: make(chan jobclient.Update), ended: make(chan watched, 1),
		view: newProgressView(a, id, asJSON),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		j, err := jobs.Watch(ctx, id, func(u jobclient.Update) {
			select {
			case w.updates <- u:
			case <-ctx.Done():
			}
		})
		w.ended <- watched{j, err}
	}()
	defer func() {
		cancel()
		<-done
	}()
	end, err := w.run(ctx)
	w.view.close()
	switch {
	case err != nil:
		return err
	case end.err != nil:
		return end.err
	}
	return a.reportEnd(cmd, end.job)
}

// run is the command's loop.
func (w *waiting) run(ctx context.Context) (watched, error) {
	canceling := false
	for {
		select {
		case u := <-w.updates:
			w.view.show(u)
		case end := <-w.ended:
			return end, nil
		case sig := <-w.signals:
			choice := choiceDetach
			if terminal := w.terminal(); terminal != nil && sig == os.Interrupt && !canceling {
				choice = w.ask(terminal)
			}
			switch choice {
			case choiceDetach:
				w.detach(canceling)
				return watched{}, exitStatus(exitDetached)
			case choiceCancel:
				canceling = w.cancel(ctx)
			case choiceGoOn:
			}
		}
	}
}

// detach leaves the job to itself.
func (w *waiting) detach(canceling bool) {
	w.view.clear()
	if canceling {
		printf(w.a.errOut, "Job %d is being canceled. See how it ended with: rowcast job show %d\n", w.id, w.id)
		return
	}
	printf(w.a.errOut, "Job %d goes on without this command.\n  watch it:  rowcast job watch %d\n  cancel it: rowcast job cancel %d\n", w.id, w.id, w.id)
}

func (w *waiting) cancel(ctx context.Context) bool {
	w.view.clear()
	ctx, stop := context.WithTimeout(ctx, cancelIn)
	defer stop()
	if err := w.jobs.Cancel(ctx, w.id); err != nil {
		printError(w.a.errOut, err)
		printf(w.a.errOut, "Job %d is not canceled. Try again with ctrl-C, or later with: rowcast job cancel %d\n", w.id, w.id)
		return false
	}
	printf(w.a.errOut, "Canceling job %d\n", w.id)
	return true
}

// choice is what somebody at the terminal wants after a ctrl-C.
type choice int

const (
	choiceGoOn choice = iota
	choiceCancel
	choiceDetach
)

// terminal is the standard input where somebody can answer a question, else nil.
func (w *waiting) terminal() *os.File {
	in, ok := w.a.in.(*os.File)
	if !ok || !w.view.onTerminal() || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return in
}

const answerPoll = 100 // ms between two looks at what else happens while the terminal is asked

// ask waits for an answer, for a second ctrl-C, or for the end of the job, whichever is first. It reads only when there is something to read, so that
// no goroutine stays behind in a read that nobody can end.
func (w *waiting) ask(terminal *os.File) choice {
	w.view.clear()
	question := fmt.Sprintf("Job %d goes on without this command. (c)ancel it, (d)etach, or (g)o on waiting? ", w.id)
	printf(w.a.errOut, "%s", question)
	buffer := make([]byte, 256)
	for {
		select {
		case sig := <-w.signals:
			printf(w.a.errOut, "\n")
			if sig == syscall.SIGTERM {
				return choiceDetach
			}
			return choiceCancel
		case end := <-w.ended:
			w.ended <- end // it has room for one
			printf(w.a.errOut, "\n")
			return choiceGoOn
		case <-w.updates:
			continue
		default:
		}
		fds := []unix.PollFd{{Fd: int32(terminal.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, answerPoll); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, err := terminal.Read(buffer)
		if err != nil || n == 0 {
			printf(w.a.errOut, "\n")
			return choiceDetach // nobody there any more
		}
		switch strings.ToLower(strings.TrimSpace(string(buffer[:n]))) {
		case "c", "cancel":
			return choiceCancel
		case "d", "detach":
			return choiceDetach
		case "g", "go on", "":
			return choiceGoOn
		}
		printf(w.a.errOut, "%s", question)
	}
}

// reportEnd prints how a job ended. A job that was not done is an error.
func (a *app) reportEnd(cmd *cobra.Command, j *jobclient.Job) error {
	asJSON, _ := cmd.Flags().GetBool("json")
	if asJSON {
		if err := a.report(cmd, j, ""); err != nil {
			return err
		}
	}
	switch j.State {
	case jobclient.StateFailed:
		return failure(j)
	case jobclient.StateCanceled:
		return rowcast.Errorf(rowcast.CodeCanceled, "job %d was canceled after %s rows; %s is as it was before", j.ID, count(done(j)), j.Target).
			WithHint("rowcast job retry %d begins it anew.", j.ID)
	}
	if !asJSON {
		printf(a.out, "%s\n", summary(j))
	}
	return nil
}

// failure is a failed job's error.
func failure(j *jobclient.Job) error {
	e := rowcast.Errorf(rowcast.CodeInternal, "job %d failed: %s", j.ID, j.Error)
	if j.SQLState != "" {
		e.Cause = errors.New("SQLSTATE " + j.SQLState)
	}
	e.Detail, e.Hint = j.Detail, j.Hint
	if e.Hint == "" {
		e.Hint = fmt.Sprintf("When the reason is gone: rowcast job retry %d", j.ID)
	}
	return e
}
