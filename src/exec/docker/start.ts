/** How the start of a container comes to its end, good or bad. */
import { assert, FndError } from '../../errors.ts'
import type { Exit } from '../driver.ts'
import { meet } from '../rendezvous.ts'
import type { Container } from './container.ts'
import { iofsTarget } from './container-spec.ts'
import { DockerRefusal, type Engine } from './engine.ts'
import { markerName } from './rendezvous-dir.ts'

export interface Wait {
  readonly engine: Engine
  readonly container: Container
  readonly dirFd: number
  readonly deadlineMs: number
  readonly signal: AbortSignal
}

/** Resolves to the socket, whose descriptor is the caller's. Rejects with `FndError`. */
export async function untilSocket(wait: Wait): Promise<{ fd: number; path: string }> {
  const { container, dirFd, deadlineMs, signal } = wait
  for (let polls = 0; ; polls++) {
    const meeting = meet(dirFd)
    if (meeting.kind === 'ready') return meeting
    if (meeting.kind === 'refused') throw new FndError('init-failed', { detail: meeting.reason })
    if (container.exit !== undefined) throw endedEarly(container.exit, container.tail)
    if (signal.aborted) throw new FndError('init-failed', { detail: 'the start was cancelled' })
    if (performance.now() >= deadlineMs) throw await tooLate(wait)
    await Bun.sleep(polls < 500 ? 1 : 10)
  }
}

function endedEarly(exit: Exit, tail: string): FndError {
  const end = exit.signal === null ? `exit code ${exit.code}` : exit.signal
  const hint = exit.signal === 'SIGKILL' ? `${end}, perhaps for want of memory` : end
  const why = exit.outOfMemory ? 'out of memory, raise the memory of the function' : hint
  return new FndError('init-failed', { detail: tail === '' ? why : `${why}: ${tail}` })
}

/** A socket that does not come may be there, in a directory that only the daemon sees. */
async function tooLate({ engine, container }: Wait): Promise<FndError> {
  const path = `${iofsTarget}/${markerName}`
  try {
    await engine.ask(docker => docker.getContainer(container.id).infoArchive({ path }))
  } catch (cause) {
    if (
      cause instanceof DockerRefusal &&
      cause.statusCode === 404 &&
      container.exit === undefined
    ) {
      return new FndError('rendezvous-unseen')
    }
    if (!(cause instanceof DockerRefusal || cause instanceof FndError)) throw cause
  }
  const { tail } = container
  return new FndError('init-timeout', tail === '' ? {} : { detail: tail })
}

const imageFault =
  /OCI runtime|exec format|executable file not found|no command specified|crun:|runc /i

/** What the daemon refuses becomes an error for the caller; everything else stays what it is. */
export function refusedStart(cause: unknown, engine: Engine): unknown {
  if (!(cause instanceof DockerRefusal)) return cause
  const { message, statusCode } = cause
  assert(statusCode >= 400, 'a refusal has the status of one')
  if (
    /bind source path does not exist|no such file or directory.*iofs|statfs .*iofs/.test(message)
  ) {
    return new FndError('rendezvous-unseen', { detail: `${engine.where}: ${message}` })
  }
  if (/no space left on device|disk quota exceeded/i.test(message)) {
    return new FndError('docker-disk-full', { detail: message })
  }
  // The image's own fault: its program is not there, or is none.
  if (imageFault.test(message)) {
    return new FndError('init-failed', { detail: message, cause })
  }
  return new FndError('container-refused', { detail: message, cause })
}
