package postgres_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// TestMain lets the test binary also be a program that starts a cluster in a folder, says where it is, and waits to be killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(postgres.StarterDir)
	if dir == "" {
		pgtest.Main(m)
	}
	c, err := postgres.StartCluster(context.Background(), postgres.ClusterOptions{Dir: dir})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(c.Dir(), c.PID())
	select {}
}
