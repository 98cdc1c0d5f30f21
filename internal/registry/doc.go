// Package registry keeps models: it reads their options and signatures, validates artifacts in a child process, stores and fetches them, and calls the
// SQL functions that change aliases and rights.
//
// A file becomes a version in this order: its bytes are uploaded in chunks under their SHA-256 (ml.begin_upload, ml.upload_chunk) or passed whole to
// ml.register_model; the SQL function asks the sidecar to validate them (Validate), which runs the model once in a child process with limits and
// returns a Report; the function stores the version with the report's signature, in the caller's transaction. Store is the sidecar's side of the
// tables, Catalog the command line's side of the functions.
package registry
