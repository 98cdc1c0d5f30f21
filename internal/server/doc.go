// Package server is the sidecar: the composition root of `rowcast serve`.
//
// Two processes run. The supervisor (Supervise) owns the listening sockets and starts the worker; it holds no model, so that nothing a
// model does can end it. The worker (Worker) builds everything else, in this order, and stops it in the reverse:
//
//	pool -> store -> ONNX Runtime -> engine -> gateway -> HTTP -> watcher of the registry
//
// A model that kills the worker costs the calls that were running one error each: the supervisor starts a new worker, backends that connect
// meanwhile wait in the backlog of the sockets, and the crumbs (what ran when it died) become a quarantine row.
package server
