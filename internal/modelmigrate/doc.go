// Package modelmigrate takes a database's models through a folder of migrations, as golang-migrate does with schemas: files 000001_name.up.sql and
// .down.sql of SQL that calls the registry's functions, and the artifacts that they name by SHA-256.
//
// One run holds golang-migrate's own advisory lock, so that two runners, or a runner and the tool migrate, never work at the same time. It reads where
// the database is, compares the files that ran with the checksums that are kept of them, uploads the artifacts that the steps ahead name, and lets
// golang-migrate's engine order the steps. Each step is one transaction: ml.begin_change (on the way up), the file as one query, and the row of the
// version table. So a runner that is killed leaves either the step or nothing, and never a dirty version; only the tool migrate, which writes the
// version in transactions of its own before and after, can leave one, and the journal of changes tells then which of the two it was.
//
// Plan does the same steps in one transaction, reads what they journaled, and rolls back.
package modelmigrate
