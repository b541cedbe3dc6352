/**
 * Loads the LMDB addon that build.ts embeds in the executable. From source this file is not used:
 * the lmdb package then finds its addon in node_modules.
 *
 * Bun would unpack an embedded addon to a file in the temporary directory, under a name that
 * another user of the machine can predict, and leave it there. An anonymous file in memory has no
 * name, needs no writable or executable file system, and goes away with its descriptor.
 */
import { dlopen } from 'bun:ffi'
import { closeSync, readFileSync, writeFileSync } from 'node:fs'

/** Held for the life of the process: the addon's code calls into them. */
const openLibraries: unknown[] = []

export interface EmbeddedLibrary {
  /** The name by which the addon asks the dynamic linker for it. */
  readonly soname: string
  /** Any function in it: bun:ffi opens no library without being asked for one. */
  readonly symbol: string
  readonly path: string
}

interface CLibrary {
  readonly memfdCreate: (name: Uint8Array, flags: number) => number
}

// linux/memfd.h. Kernels before 6.3 do not know MFD_EXEC and then answer EINVAL.
const memfdCloexec = 1
const memfdExec = 0x10

function cLibrary(): CLibrary {
  const names = ['libc.so.6', `libc.musl-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so.1`]
  const failures: string[] = []
  for (const name of names) {
    try {
      const { symbols } = dlopen(name, {
        memfd_create: { args: ['cstring', 'u32'], returns: 'i32' },
      })
      return {
        memfdCreate: (memfdName, flags) => symbols.memfd_create(memfdName, flags),
      }
    } catch (cause) {
      failures.push((cause as Error).message)
    }
  }
  throw new Error(`no C library to create a file in memory with: ${failures.join('; ')}`)
}

/**
 * Embedded files as paths that the dynamic linker can open. Each keeps its descriptor until all are
 * loaded: the linker knows a loaded library by its path, so no number may be used twice.
 */
class MemoryFiles implements Disposable {
  readonly #c = cLibrary()
  readonly #fds: number[] = []

  path(embeddedPath: string): string {
    const name = new TextEncoder().encode('fnd\0')
    let fd = this.#c.memfdCreate(name, memfdCloexec | memfdExec)
    if (fd < 0) fd = this.#c.memfdCreate(name, memfdCloexec)
    if (fd < 0) throw new Error('memfd_create failed: the kernel refuses files in memory')
    this.#fds.push(fd)
    writeFileSync(fd, readFileSync(embeddedPath))
    return `/proc/self/fd/${fd}`
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds) closeSync(fd)
  }
}

/** What of the addon is replaced before lmdb sees it. */
export interface AddonExports {
  globalBuffer: Buffer
  readonly setGlobalBuffer: (buffer: Buffer) => void
}

/** Longer records get buffers of their own from lmdb. */
const readBufferBytes = 64 * 1024

/**
 * The addon comes with 16 MiB to read records into. The collector counts them as memory in use and
 * lets as much garbage pile up before it starts: memory, and longer pauses of hot calls.
 */
export function shrinkReadBuffer(addon: AddonExports): void {
  const buffer = Buffer.alloc(readBufferBytes)
  addon.setGlobalBuffer(buffer)
  addon.globalBuffer = buffer
}

function isMissingLibrary(fault: unknown, libraries: readonly EmbeddedLibrary[]): boolean {
  return fault instanceof Error && libraries.some(({ soname }) => fault.message.includes(soname))
}

/**
 * The C++ runtime of the machine is preferred; the embedded one serves where there is none.
 * `libraries` are in the order of their dependence. The linker takes a library that is already
 * loaded for one it is asked for when the sonames agree, so opening them first is enough.
 */
export function loadEmbeddedAddon(
  addonPath: string,
  libraries: readonly EmbeddedLibrary[],
): Record<string, unknown> {
  using files = new MemoryFiles()
  const target: { exports: Record<string, unknown> } = { exports: {} }
  const memoryPath = files.path(addonPath)
  try {
    process.dlopen(target, memoryPath)
  } catch (fault) {
    if (!isMissingLibrary(fault, libraries)) throw fault
    for (const { path, symbol } of libraries) {
      openLibraries.push(dlopen(files.path(path), { [symbol]: { args: [], returns: 'void' } }))
    }
    process.dlopen(target, memoryPath)
  }
  shrinkReadBuffer(target.exports as unknown as AddonExports)
  return target.exports
}
