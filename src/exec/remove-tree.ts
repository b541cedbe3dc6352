/** Removal of directories that functions wrote to. */
import { chmodSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Removes a directory with all that is in it, also where a function of fnd's own uid took its
 * permissions away. Links are removed, never followed.
 */
export function removeTree(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true })
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EACCES') throw cause
    open(dir)
    rmSync(dir, { recursive: true, force: true })
  }
}

function open(dir: string): void {
  chmodSync(dir, 0o700)
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) open(join(dir, entry.name))
  }
}
