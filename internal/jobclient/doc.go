// Package jobclient starts scoring jobs, watches them and steers them, as the command line does.
//
// It knows no more than anybody who connects with psql: the functions and views of schema ml, with the rights of its own role. A job belongs to the
// database, so it goes on when the client ends, and a client can come back to it. Watch reads the job's row again and again; a notification only makes
// it read sooner. It outlives a restart of PostgreSQL and of the sidecar.
package jobclient
