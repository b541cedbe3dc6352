/**
 * The one table of operational errors: code → HTTP status and message. Messages that Fn's clients
 * know are Fn's own words; the others are ours. A bug is not here: it fails an `assert` and ends
 * the process.
 */

interface ErrorRow {
  readonly status: number
  readonly message: string
  /** Seconds for `Retry-After`; its presence says that the same request may succeed later. */
  readonly retryAfterS?: number
  /** Between the message and a detail, where Fn's words go on in one sentence. */
  readonly joint?: string
}

const table = {
  // Requests in general.
  'invalid-json': { status: 400, message: 'Invalid JSON' },
  'invalid-field': { status: 400, message: 'Invalid field' },
  'invalid-cursor': { status: 400, message: 'Invalid cursor' },
  unauthorized: { status: 401, message: 'A valid bearer token is required' },
  'origin-forbidden': {
    status: 403,
    message: 'Without a token, pages of other origins may not use the admin API',
  },
  'path-not-found': { status: 404, message: 'Path not found' },
  'method-not-allowed': { status: 405, message: 'Method not allowed' },
  'request-too-large': { status: 413, message: 'Content-Length too large for this server' },
  'headers-too-large': { status: 431, message: 'Request header too large for this server' },
  'feature-removed': { status: 410, message: '' },
  internal: { status: 500, message: 'internal server error' },
  'shutting-down': { status: 503, message: 'Server is shutting down', retryAfterS: 5 },
  'disk-full': { status: 507, message: 'The data directory is out of space', retryAfterS: 60 },
  'store-failed': {
    status: 500,
    message: 'The data directory failed while writing; this change may or may not be kept',
  },
  'write-overload': { status: 503, message: 'Too many pending changes', retryAfterS: 1 },

  // Nodes.
  'node-exists': { status: 409, message: 'Another node has this id' },
  'snapshot-invalid': { status: 400, message: 'Invalid snapshot' },
  'snapshot-failed': { status: 500, message: 'No snapshot of the state could be taken' },
  'backup-invalid': { status: 400, message: 'Invalid backup' },
  'backup-failed': { status: 500, message: 'No backup could be made' },
  'upgrade-pending': {
    status: 409,
    message: 'Not before every node of the cluster runs a version of fnd that knows this change',
  },
  // Between nodes.
  'peer-unreachable': {
    status: 503,
    message: 'Another node of the cluster cannot be reached',
    retryAfterS: 1,
  },
  'peer-outcome-unknown': {
    status: 503,
    message: 'Another node did not answer; what it was asked for may or may not have been done',
  },
  'peer-method-unknown': {
    status: 501,
    message: 'Another node runs a version of fnd that does not know this request',
  },
  'join-refused': { status: 403, message: 'The cluster refused this node' },
  'join-unreachable': {
    status: 503,
    message: 'No member of the cluster could be reached to join it',
    retryAfterS: 1,
  },
  'join-not-found': { status: 404, message: 'No node with this fingerprint waits to join' },
  'join-overload': { status: 503, message: 'Too many nodes wait to join', retryAfterS: 60 },

  // Apps.
  'app-id-given': { status: 400, message: 'App ID cannot be supplied on create' },
  'app-name-missing': { status: 400, message: 'Missing Name' },
  'app-name-long': { status: 400, message: 'App name must be 255 characters or less' },
  'app-name-invalid': { status: 400, message: 'Invalid app name' },
  'app-shape-invalid': { status: 400, message: 'Invalid app shape' },
  'app-syslog-invalid': { status: 400, message: 'invalid syslog url' },
  'app-exists': { status: 409, message: 'App already exists' },
  'app-not-found': { status: 404, message: 'App not found' },
  'app-id-mismatch': { status: 400, message: 'App ID in path does not match ID in body' },
  'app-name-immutable': { status: 409, message: 'Could not update - name is immutable' },
  'registry-invalid': {
    status: 400,
    message: 'A registry is named host or host:port, as in the names of its images',
  },
  'registry-not-found': { status: 404, message: 'The app has no credentials for this registry' },

  // Functions.
  'fn-id-given': { status: 400, message: 'ID cannot be provided for Fn creation' },
  'fn-app-id-missing': { status: 400, message: 'Missing AppID on Fn' },
  'fn-name-missing': { status: 400, message: 'Missing Fn name' },
  'fn-name-long': { status: 400, message: 'Fn name must be 255 characters or less' },
  'fn-name-invalid': { status: 400, message: 'name must be a valid string' },
  'fn-image-missing': { status: 400, message: 'Missing image on Fn' },
  'fn-timeout-range': {
    status: 400,
    message: 'timeout value is out of range, must be between 0 and 300',
  },
  'fn-idle-timeout-range': {
    status: 400,
    message: 'idle_timeout value is out of range, must be between 0 and 3600',
  },
  'fn-memory-range': {
    status: 400,
    message: 'memory value is out of range. It should be between 0 and 8192',
  },
  'fn-exists': { status: 409, message: 'Fn with specified name already exists' },
  'fn-not-found': { status: 404, message: 'Fn not found' },
  'fn-id-mismatch': { status: 400, message: 'Fn ID in path does not match that in body' },

  // Triggers.
  'trigger-id-given': { status: 400, message: 'ID cannot be provided for Trigger creation' },
  'trigger-created-at-given': {
    status: 400,
    message: 'Trigger Created At Provided for Create',
  },
  'trigger-updated-at-given': { status: 400, message: 'Trigger ID Provided for Create' },
  'trigger-app-id-missing': { status: 400, message: 'Missing App ID on Trigger' },
  'trigger-name-missing': { status: 400, message: 'Missing name on Trigger' },
  'trigger-name-long': { status: 400, message: 'Trigger name must be 255 characters or less' },
  'trigger-name-invalid': { status: 400, message: 'Invalid name for Trigger' },
  'trigger-fn-id-missing': { status: 400, message: 'Missing Fn ID on Trigger' },
  'trigger-type-unsupported': { status: 400, message: 'Trigger Type Not Supported' },
  'trigger-source-missing': { status: 400, message: 'Missing Trigger Source' },
  'trigger-source-prefix': { status: 400, message: "Missing Trigger Source Prefix '/'" },
  'trigger-fn-not-owned': {
    status: 400,
    message: 'Invalid Fn ID - not owned by specified app',
  },
  'trigger-source-exists': {
    status: 409,
    message: 'Trigger with the same type and source exists on this app',
  },
  'trigger-exists': { status: 409, message: 'Trigger already exists' },
  'trigger-not-found': { status: 404, message: 'Trigger not found' },
  'trigger-id-mismatch': { status: 400, message: 'ID in path does not match ID in body' },

  // Annotations.
  'annotation-key-invalid': {
    status: 400,
    message:
      'Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace',
  },
  'annotation-key-long': {
    status: 400,
    message: 'Invalid annotation key length, annotation keys may not be larger than 128 bytes',
  },
  'annotation-value-invalid': {
    status: 400,
    message:
      'Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays',
  },
  'annotation-value-long': {
    status: 400,
    message:
      'Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON',
  },
  'annotation-too-many': {
    status: 400,
    message:
      'Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)',
  },

  // Bundles.
  'bundle-hash-invalid': { status: 400, message: 'A bundle is named sha256-<64 hex digits>' },
  'bundle-hash-mismatch': { status: 400, message: 'The content does not have the given hash' },
  'bundle-invalid': { status: 400, message: 'Invalid bundle' },
  'bundle-too-large': { status: 413, message: 'Bundle too large for this server' },
  'bundle-not-found': { status: 404, message: 'Bundle not found' },
  'call-not-found': { status: 404, message: 'Call not found' },
  'too-many-followers': {
    status: 503,
    message: 'Too many clients follow logs',
    retryAfterS: 10,
  },

  // The cluster.
  'no-leader': { status: 503, message: 'The cluster has no leader just now', retryAfterS: 1 },
  'no-quorum': {
    status: 503,
    message: 'A majority of the voters cannot be reached',
    retryAfterS: 5,
  },
  'outcome-unknown': {
    status: 503,
    message: 'The leader was lost before it answered; this change may or may not be kept',
    retryAfterS: 1,
  },
  'not-fresh': {
    status: 503,
    message: 'This node has not applied what the request asks to see',
    retryAfterS: 1,
  },
  'node-removed': {
    status: 409,
    message: 'This node was removed from the cluster; to join it anew, empty its data directory',
  },
  'node-not-found': { status: 404, message: 'No such node' },
  'node-unreachable': { status: 409, message: 'The node cannot be reached' },
  'node-behind': { status: 409, message: 'The node has not caught up with the log' },
  'node-draining': { status: 409, message: 'The node drains or leaves' },
  'node-is-voter': { status: 409, message: 'The node is a voter already' },
  'node-is-learner': { status: 409, message: 'The node is no voter' },
  'node-is-leader': { status: 409, message: 'The node leads; transfer the leadership first' },
  'last-node': {
    status: 409,
    message: 'There is no other node that could take over; to end the cluster, stop fnd',
  },
  'voters-even': {
    status: 409,
    message: 'Two voters survive no more failures than one; add a third node',
  },
  'no-successor': { status: 409, message: 'No other node that has caught up can take its place' },
  'cluster-busy': {
    status: 503,
    message: 'The membership or the leadership is changing just now',
    retryAfterS: 1,
  },
  'transfer-failed': {
    status: 503,
    message: 'The leadership was not handed over in time',
    retryAfterS: 1,
  },

  // Calls.
  'call-key-required': { status: 401, message: 'This app asks for an invocation key' },
  'node-too-small': { status: 400, message: 'Requested CPU/Memory cannot be allocated' },
  busy: { status: 503, message: 'Timed out - server too busy', retryAfterS: 15 },
  'call-timeout': { status: 504, message: 'Timed out' },
  'function-died': { status: 502, message: 'error receiving function response' },
  'function-out-of-memory': {
    status: 502,
    message:
      'error receiving function response: out of memory, you may want to raise the memory of the function',
  },
  'function-failed': { status: 502, message: 'function failed' },
  'function-response-invalid': { status: 502, message: 'invalid function response' },
  'function-body-too-large': { status: 502, message: 'function response body too large' },
  'function-headers-too-large': { status: 502, message: 'function response header too large' },
  'init-failed': {
    status: 502,
    message:
      'Container failed to initialize, please ensure you are using the latest fdk and check the logs',
  },
  'syslog-unavailable': { status: 500, message: 'Syslog Unavailable' },
  'isolation-missing': {
    status: 500,
    message: 'FND_REQUIRE_ISOLATION is set, and this host cannot isolate functions',
  },
  'init-timeout': {
    status: 504,
    message:
      'Container initialization timed out, please ensure you are using the latest fdk / format and check the logs',
  },
  'request-body-too-large': { status: 413, message: 'Request content too large' },
  'detached-unsupported': {
    status: 501,
    message: 'Detach call functions are not supported on this server',
  },
  'docker-unavailable': {
    status: 503,
    message: 'The Docker daemon cannot be reached',
    retryAfterS: 5,
  },
  'docker-disk-full': {
    status: 503,
    message: 'The Docker daemon is out of space',
    retryAfterS: 60,
  },
  'container-refused': { status: 500, message: 'The Docker daemon refused the container' },
  'rendezvous-unseen': {
    status: 502,
    message:
      'The Docker daemon does not see the directory for sockets (FND_IOFS_PATH, FND_IOFS_DOCKER_PATH)',
  },
  'bundle-unreachable': {
    status: 503,
    message: 'The bundle is not on this node, and could not be fetched from the others',
    retryAfterS: 5,
  },
  'image-driver-missing': {
    status: 502,
    message: 'Failed to pull image',
    joint: ' ',
  },
  // The registry's or the daemon's refusal, with its status where that is the caller's to mend.
  'image-invalid': { status: 400, message: 'Failed to pull image', joint: ' ' },
  'image-denied': { status: 403, message: 'Failed to pull image', joint: ' ' },
  'image-not-found': { status: 404, message: 'Failed to pull image', joint: ' ' },
  'pulls-limited': {
    status: 429,
    message: 'Failed to pull image',
    joint: ' ',
    retryAfterS: 60,
  },
  'pull-failed': { status: 502, message: 'Failed to pull image', joint: ' ' },
  'pull-timeout': { status: 504, message: 'Image pull timed out', joint: ', ' },
  'image-has-volume': { status: 400, message: 'image has Volume definition' },
  'credentials-unreadable': {
    status: 500,
    message: 'The credentials of a registry cannot be read',
  },
  /** The caller went away; nobody reads this answer (Fn's pseudo status). */
  'client-gone': { status: 444, message: 'Client disconnected before the answer' },
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof table

/** For codes that other nodes name, which may be of another version. */
export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(table, code)
}

export interface FndErrorOptions {
  /** Appended to the table's message after `: `, to name the culprit. */
  readonly detail?: string
  /** Replaces the table's message where Fn's text itself carries a value. */
  readonly message?: string
  /** The request field at fault, by its name on the wire. */
  readonly field?: string
  readonly cause?: unknown
}

/** An operational error; `code` is a row of the table, `message` is fit for the caller. */
export class FndError extends Error {
  override readonly name = 'FndError'
  readonly code: ErrorCode
  readonly status: number
  readonly retryAfterS: number | undefined
  readonly field: string | undefined
  readonly detail: string | undefined

  constructor(code: ErrorCode, options: FndErrorOptions = {}) {
    const row: ErrorRow = table[code]
    const text = options.message ?? row.message
    super(options.detail === undefined ? text : `${text}${row.joint ?? ': '}${options.detail}`, {
      cause: options.cause,
    })
    this.code = code
    this.status = row.status
    this.retryAfterS = row.retryAfterS
    this.field = options.field
    this.detail = options.detail
  }
}

/**
 * This data directory cannot be served. The message is for the operator and says what to do; fnd
 * prints it and exits.
 */
export class StartError extends Error {
  override readonly name = 'StartError'
}

/** What a broken assertion throws. It means a bug in fnd: nothing may catch it and go on. */
export class AssertionError extends Error {
  override readonly name = 'AssertionError'
}

/** `truth` says what holds; when it does not, the process must end. */
export function assert(condition: unknown, truth: string): asserts condition {
  if (!condition) throw new AssertionError(`broken invariant: ${truth}`)
}
