import { callerHeaders, isTrigger } from './worker-answer.ts'

/** The second argument of a handler. Everything is computed when it is asked for. */
export class Context {
  readonly #request: Request
  readonly #env: Readonly<Record<string, string>>
  #status = 200
  #answerHeaders: Headers | undefined

  constructor(request: Request, env: Readonly<Record<string, string>>) {
    this.#request = request
    this.#env = env
  }

  get callId(): string {
    return this.#request.headers.get('fn-call-id') ?? ''
  }

  get fnId(): string {
    return this.#env.FN_FN_ID ?? ''
  }

  get fnName(): string {
    return this.#env.FN_FN_NAME ?? ''
  }

  get appId(): string {
    return this.#env.FN_APP_ID ?? ''
  }

  get appName(): string {
    return this.#env.FN_APP_NAME ?? ''
  }

  get deadline(): Date {
    return new Date(this.#request.headers.get('fn-deadline') ?? Number.NaN)
  }

  /** Aborted when the caller goes away. */
  get signal(): AbortSignal {
    return this.#request.signal
  }

  get config(): Readonly<Record<string, string>> {
    return this.#env
  }

  get headers(): Headers {
    return this.#request.headers
  }

  /** The HTTP request of a trigger; undefined for a plain invocation. */
  get http(): { method: string; url: string; headers: Headers } | undefined {
    const headers = this.#request.headers
    if (!isTrigger(headers)) return undefined
    return {
      method: headers.get('fn-http-method') ?? 'GET',
      url: headers.get('fn-http-request-url') ?? '',
      headers: callerHeaders(headers),
    }
  }

  setStatus(status: number): void {
    if (!Number.isInteger(status) || status < 100 || status > 599) {
      throw new RangeError(`${status} is not an HTTP status`)
    }
    this.#status = status
  }

  setHeader(name: string, value: string): void {
    this.#answerHeaders ??= new Headers()
    this.#answerHeaders.set(name, value)
  }

  static answerOf(ctx: Context): { readonly status: number; readonly headers: Headers } {
    return { status: ctx.#status, headers: ctx.#answerHeaders ?? new Headers() }
  }
}
