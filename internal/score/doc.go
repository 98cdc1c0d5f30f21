// Package score runs scoring jobs: every row of a table or query through a model, the results into a table.
//
// # The rows are the truth
//
// A job is a row of ml_private.job; its ledger is ml_private.job_chunk. Any number of sidecars look at them. NOTIFY wakes a sidecar, a poll every
// few seconds stands behind it. A job goes through three phases: plan, score, publish. One sidecar at a time plans or publishes, all of them score.
// Whoever works holds a lease of ten seconds, by the database's clock, and renews it; a sidecar that dies loses it, and the next one takes over. A
// lease says who should work, never who may write: each claim raises an epoch, and what is written is committed together with an update that
// names the epoch. A late writer's update finds no row, and its transaction is rolled back.
//
// # Plan
//
// The source is looked at with the rights of the role that started the job. Where it is a table with an index on the key whose order is about that
// of the rows on disk, it is read in ranges of keys: a sample gives the bounds. A key stays in its range, whoever reads it and in whatever snapshot,
// so that a table that is written meanwhile has no row scored twice or passed over. Anything else (a query, a key without an index or in another
// order than the rows) is copied once, in one snapshot, to a table of schema ml_staging and read from there in ranges of blocks. Before anything
// is scored the target is checked, by having PostgreSQL plan the very INSERT that will fill it.
//
// # Score
//
// A worker claims a chunk and has two connections: COPY reads the rows in binary format, each goes straight into the frame's tensors; a full frame is
// run; keys (as they came) and answers are encoded and go into the other COPY, which fills a table of schema ml_staging. That COPY, the bad rows and
// the chunk's entry in the ledger are one transaction. Several workers keep PostgreSQL and ONNX Runtime busy at the same time.
//
// # Publish
//
// A target that the job makes is the staging table itself: it gets its primary key, which finds keys that are not unique, then its schema, name and
// owner. An existing target is filled by one INSERT (after a DELETE of everything to replace), so readers see all or nothing.
// A job that fails or is canceled leaves its target as it was.
//
// # Rights
//
// The sidecar's session belongs to the owner of schema ml, often a superuser, and the source may run code of anybody: functions in views, policies,
// triggers and constraints of the target. SET ROLE alone would be no fence, since such code can RESET ROLE. So all of it runs inside a function
// that is owned by the starter and SECURITY DEFINER: there PostgreSQL refuses to change the role, and rights are the starter's. The function is made in
// the transaction that uses it and never committed by one that reads, so that nobody else can see or change it. Transactions that read are rolled back,
// so that nothing which the code left for the commit (deferred triggers, cursors WITH HOLD) ever runs. The one that publishes must commit: it fires
// deferred triggers inside the function until none is left, and closes all cursors. Results pass through tables that only Rowcast can write to.
package score
