/** A datagram socket of the unix domain, which neither Bun nor Node offers: `/dev/log` is one. */
import { assert } from '../errors.ts'
import { SyscallError, syscall } from './libc.ts'

const unixFamily = 1
const datagramType = 2
const closeOnExec = 0o2000000
const nonBlocking = 0o4000
const dontWait = 0x40
const noSignal = 0x4000
const familyBytes = 2
const again = 11
const outOfBuffers = 105
/** The kernel has no room for as long as the receiver has not read; nothing tells when it has. */
const retryMs = 5

export interface DatagramEvents {
  writable(): void
  lost(reason: string): void
}

export class UnixDatagrams {
  readonly #fd: number
  readonly #address: Uint8Array
  readonly #events: DatagramEvents
  #retry: ReturnType<typeof setTimeout> | undefined
  #isClosed = false

  /** Rejects with `SyscallError` when nobody listens there. */
  static async open(path: string, events: DatagramEvents): Promise<UnixDatagrams> {
    const fd = syscall('socket', unixFamily, datagramType | closeOnExec | nonBlocking, 0)
    if (fd < 0) throw new SyscallError('socket', fd)
    const address = addressOf(path)
    const result = syscall('connect', fd, address, address.length)
    if (result < 0) {
      syscall('close', fd)
      throw new SyscallError(`connect to ${path}`, result)
    }
    return new UnixDatagrams(fd, address, events)
  }

  private constructor(fd: number, address: Uint8Array, events: DatagramEvents) {
    this.#fd = fd
    this.#address = address
    this.#events = events
  }

  /** All bytes, none (then `writable` follows), or -1 when the receiver is gone. */
  write(bytes: Uint8Array): number {
    if (this.#isClosed) return -1
    const { length } = this.#address
    const flags = dontWait | noSignal
    const result = syscall('sendto', this.#fd, bytes, bytes.length, flags, this.#address, length)
    if (result >= 0) return result
    if (-result === again || -result === outOfBuffers) {
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined
        this.#events.writable()
      }, retryMs)
      return 0
    }
    const reason = new SyscallError('sendto', result).message
    // Not from within `write`: its caller is in the middle of counting what was sent.
    queueMicrotask(() => {
      if (this.#isClosed) return
      this.close()
      this.#events.lost(reason)
    })
    return -1
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#retry)
    syscall('close', this.#fd)
  }
}

/** `struct sockaddr_un`: the family, little-endian as the machines are, and the path. */
function addressOf(path: string): Uint8Array {
  const text = new TextEncoder().encode(path)
  assert(text.length > 0 && text.length <= 107, 'a path fits into a socket address')
  const address = new Uint8Array(familyBytes + text.length + 1)
  address[0] = unixFamily
  address.set(text, familyBytes)
  return address
}
