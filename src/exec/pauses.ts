/** Carries out pauses and resumes: of each instance one at a time, in the order they are asked. */
import { assert, FndError } from '../errors.ts'
import type { Instance } from './driver.ts'
import type { InstanceId } from './pool.ts'

/** `not-paused`: the pause before the resume had failed, which its caller was told. */
export type PauseEnd = 'done' | 'not-paused' | FndError

export function canPause(instance: Instance): boolean {
  return instance.pause !== undefined && instance.resume !== undefined
}

export class Pauses {
  /** What came, or will come, of the last that was asked. */
  readonly #last = new Map<InstanceId, Promise<PauseEnd>>()

  pause(id: InstanceId, instance: Instance): Promise<PauseEnd> {
    const pausing = instance.pause?.()
    assert(pausing !== undefined, 'only instances that can be paused are')
    return this.#keep(id, endOf(pausing))
  }

  /** Waits for a pause that is under way. */
  resume(id: InstanceId, instance: Instance): Promise<PauseEnd> {
    return this.#keep(id, resumeAfter(this.#last.get(id), instance))
  }

  /** Resolves when nothing is under way. */
  async settled(id: InstanceId): Promise<void> {
    await this.#last.get(id)
  }

  forget(id: InstanceId): void {
    this.#last.delete(id)
  }

  #keep(id: InstanceId, end: Promise<PauseEnd>): Promise<PauseEnd> {
    this.#last.set(id, end)
    return end
  }
}

async function resumeAfter(
  pausing: Promise<PauseEnd> | undefined,
  instance: Instance,
): Promise<PauseEnd> {
  if ((await pausing) instanceof FndError) return 'not-paused'
  const resuming = instance.resume?.()
  assert(resuming !== undefined, 'only instances that can be resumed are paused')
  return endOf(resuming)
}

async function endOf(attempt: Promise<void>): Promise<PauseEnd> {
  try {
    await attempt
    return 'done'
  } catch (cause) {
    if (cause instanceof FndError) return cause
    throw cause
  }
}
