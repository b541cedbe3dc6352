import { closeSync, constants, fsyncSync, mkdirSync, openSync } from 'node:fs'
import { type FileHandle, open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'

export function fsyncFile(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** A new name survives a power loss only once the directory that holds it is on the disk. */
export async function fsyncDir(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export function fsyncDirSync(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Makes a directory and its parents, on the disk. */
export async function makeDir(path: string, mode: number): Promise<void> {
  const first = mkdirSync(path, { recursive: true, mode })
  if (first === undefined) return
  for (let dir = path; dir.length >= first.length; dir = dirname(dir)) {
    await fsyncDir(dirname(dir))
  }
}

/** All of the chunk: a write may take less than it is given. */
export async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  let at = 0
  while (at < chunk.length) at += (await file.write(chunk, at)).bytesWritten
}

/** A secret in a file of its own, which is whole or absent. Its name is still to be flushed. */
export async function writeWhole(path: string, text: string | Uint8Array): Promise<void> {
  const draft = `${path}.${process.pid}.partial`
  const handle = await open(draft, 'w', 0o600)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(draft, path)
}
