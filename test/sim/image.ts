/**
 * What a log holds, computed from the writes that it was given and nothing else: what it says of
 * itself, while it runs and after each start, is held against this.
 */
import type { Identity, LogStore, LogWrite } from '../../src/raft/ports.ts'
import type { Entry, HardState } from '../../src/raft/types.ts'

export interface LogImage {
  readonly hardState: HardState
  readonly baseIndex: number
  readonly baseTerm: number
  readonly entries: readonly Entry[]
  readonly installing: string
  /** Entries up to here may leave, whenever the log likes. */
  readonly droppable: number
}

export const emptyLog: LogImage = {
  hardState: { term: 0, vote: 0, commit: 0 },
  baseIndex: 0,
  baseTerm: 0,
  entries: [],
  installing: '',
  droppable: 0,
}

export function lastIndexOf(log: LogImage): number {
  return log.baseIndex + log.entries.length
}

export function termOf(log: LogImage, index: number): number | undefined {
  if (index === log.baseIndex) return log.baseTerm
  return log.entries[index - log.baseIndex - 1]?.term
}

/** The image after this write, which removes nothing at the front but for a reset. */
export function written(log: LogImage, write: LogWrite): LogImage {
  const { hardState, reset, isInstalled, dropThrough } = write
  const droppable = Math.max(log.droppable, dropThrough)
  const installing = isInstalled === true ? '' : log.installing
  let after = { ...log, hardState, installing, droppable }
  if (reset !== undefined) {
    const { index, term, data } = reset
    const base = { baseIndex: index, baseTerm: term, droppable: index }
    after = { ...after, ...base, entries: [], installing: data }
  }
  const [first] = write.entries
  if (first === undefined) return after
  const kept = after.entries.slice(0, first.index - after.baseIndex - 1)
  return { ...after, entries: [...kept, ...write.entries] }
}

/** The image without the entries that left: the log begins at `firstIndex`. */
export function without(log: LogImage, firstIndex: number): LogImage {
  const count = firstIndex - 1 - log.baseIndex
  if (count <= 0) return log
  const baseTerm = log.entries[count - 1]?.term ?? log.baseTerm
  return { ...log, baseIndex: firstIndex - 1, baseTerm, entries: log.entries.slice(count) }
}

export type ReadLog = Omit<LogStore, 'write' | 'hasRoom' | 'close'> & {
  readonly identity: Identity
}

/** What `log` says of itself without reading entries; undefined when it is as the image. */
export function differenceAtOnce(log: ReadLog, image: LogImage): string | undefined {
  const { hardState, firstIndex, lastIndex, installing } = log
  const { term, vote, commit } = image.hardState
  if (hardState.term !== term || hardState.vote !== vote || hardState.commit !== commit) {
    return `hard state ${JSON.stringify(hardState)}, not ${JSON.stringify(image.hardState)}`
  }
  if (lastIndex !== lastIndexOf(image)) {
    return `the last index ${lastIndex}, not ${lastIndexOf(image)}`
  }
  if (firstIndex <= image.baseIndex) return `${firstIndex}, which left it before`
  if (firstIndex - 1 > Math.max(image.droppable, image.baseIndex)) {
    return `nothing before ${firstIndex}, although only ${image.droppable} may have left`
  }
  if (installing !== image.installing) return `${installing} to install, not ${image.installing}`
  const baseTerm = termOf(image, firstIndex - 1)
  if (log.term(firstIndex - 1) !== baseTerm) return `another term than ${baseTerm} at its base`
  return undefined
}

/** Of all that it holds. Throws `StartError` where a record cannot be read. */
export function difference(log: ReadLog, image: LogImage): string | undefined {
  const found = differenceAtOnce(log, image)
  if (found !== undefined) return found
  for (let index = log.firstIndex; index <= log.lastIndex; ) {
    const entries = log.read(index, Number.POSITIVE_INFINITY)
    const other = otherThan(image, entries)
    if (other !== undefined) return other
    index += entries.length
  }
  return undefined
}

/** The first of these entries that the image does not hold. */
export function otherThan(image: LogImage, entries: readonly Entry[]): string | undefined {
  for (const entry of entries) {
    const own = image.entries[entry.index - image.baseIndex - 1]
    const isSame =
      own !== undefined &&
      (own === entry ||
        (own.index === entry.index &&
          own.term === entry.term &&
          own.kind === entry.kind &&
          Buffer.compare(own.bytes, entry.bytes) === 0))
    if (!isSame) return `an entry ${entry.index} of term ${entry.term}, not of ${own?.term}`
  }
  return undefined
}
