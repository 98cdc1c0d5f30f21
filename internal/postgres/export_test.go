package postgres

import (
	"errors"
	"log/slog"

	"github.com/rowcast/rowcast/internal/rowcast"
)

func asError(err error, target **rowcast.Error) bool { return errors.As(err, target) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// StarterDir names the environment variable with the folder in which TestMain starts a cluster.
const StarterDir = "ROWCAST_TEST_STARTER_DIR"
