// Package postgres is the adapter to PostgreSQL: the connection pool, the one place where a PgError becomes a rowcast.Error, the migrations
// runner with its preflight, and private clusters for `rowcast dev` and the tests.
//
// # Migrations
//
// Numbered migrations carry state and run once, each in one transaction together with the version that it leads to, so that a migration that
// fails or is killed leaves the database exactly where it was: there is no dirty state to clean up by hand. The SQL API (functions/*.sql) has
// no state: all of its files run in one transaction at every Up, so that callers see either the old API or the new one.
//
// # Private clusters
//
// StartCluster makes a cluster of its own in a new folder and runs the server as a direct child. PostgreSQL refuses to run as root; root
// therefore hands the cluster to an ordinary user who can reach the folder, or, where none can (a clone under /root), runs the server in a user
// namespace in which root is an ordinary user. Nothing outlives its starter, however that ends: the kernel tells the server (PDEATHSIG), and a
// shell that waits on a pipe removes the folder.
package postgres
