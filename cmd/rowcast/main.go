// Command rowcast turns a PostgreSQL database into a model-serving platform. See package internal/cli.
package main

import (
	"os"

	"github.com/rowcast/rowcast/internal/cli"
)

// version is set at link time.
var version = "dev"

func main() {
	os.Exit(cli.Main(version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
