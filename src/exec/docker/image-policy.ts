/** When an image is pulled, and which goes first when room is needed. Pure. */
import { FndError } from '../../errors.ts'
import type { FnSpec } from '../driver.ts'
import type { ImageRecord } from './image-records.ts'

export interface Situation {
  readonly policy: FnSpec['pull']
  readonly isPresent: boolean
  /** The app may use what is present. */
  readonly isAllowed: boolean
  /** A digest is asked for, which always means the same image. */
  readonly isImmutable: boolean
  /** It was pulled a moment ago. */
  readonly isFresh: boolean
}

export type Verdict = 'use' | 'pull' | 'missing' | 'forbidden'

/**
 * To pull what is present is how an app proves that it may have it: the daemon asks the registry
 * with the app's credentials, and fetches nothing that it has.
 */
export function decide(situation: Situation): Verdict {
  const { policy, isPresent, isAllowed, isImmutable, isFresh } = situation
  if (isPresent && isAllowed && (policy !== 'always' || isImmutable || isFresh)) return 'use'
  if (policy !== 'never') return 'pull'
  return isPresent ? 'forbidden' : 'missing'
}

export function refusalOf(verdict: 'missing' | 'forbidden', image: string): FndError {
  return verdict === 'missing'
    ? new FndError('image-not-found', {
        detail: `'${image}': it is not in the daemon, and fnd.io/pull is never`,
      })
    : new FndError('image-denied', {
        detail:
          `'${image}': it was pulled with credentials that this app does not have, ` +
          'and fnd.io/pull is never',
      })
}

export interface Room {
  readonly bytesMax: number
  readonly graceMs: number
  readonly nowMs: number
  readonly isKept: (id: string, record: ImageRecord) => boolean
}

/** Images that may be removed, the one that was unused for longest first. */
export function removable(
  images: Iterable<readonly [string, ImageRecord]>,
  room: Room,
): readonly string[] {
  return [...images]
    .filter(([id, record]) => {
      const isRested = record.usedMs <= room.nowMs - room.graceMs
      return record.names.length > 0 && isRested && !room.isKept(id, record)
    })
    .sort(([, a], [, b]) => a.usedMs - b.usedMs)
    .map(([id]) => id)
}
