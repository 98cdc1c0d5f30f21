package cli

import (
	"io"

	"github.com/rowcast/rowcast/internal/registry"
)

// hidden runs what this program calls itself for: the child process that tries out a new model. It comes before anything that reads the
// environment or installs signal handlers.
func hidden(args []string, in io.Reader, out io.Writer) (status int, done bool) {
	if len(args) == 1 && args[0] == registry.ChildArgument {
		return registry.ValidateChild(in, out), true
	}
	return 0, false
}
