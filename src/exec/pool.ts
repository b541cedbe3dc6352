/**
 * The pool decides, and does nothing: which instance takes a call, when one more is started, which
 * idle one makes room. It is pure and synchronous; time comes in as an argument, decisions go out
 * as effects that the runner carries out.
 */
