/** What this machine is called by others. */
import { createSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { networkInterfaces } from 'node:os'

const wildcards = new Set(['0.0.0.0', '::', ''])

/**
 * The address that a packet to `target` leaves from; of the first network card without a target,
 * or where there is no way to it; loopback on a machine without any.
 */
export async function ownAddress(listenHost: string, target?: string): Promise<string> {
  if (!wildcards.has(listenHost)) return listenHost
  const towards = target === undefined ? undefined : await addressTowards(target)
  return towards ?? firstAddress() ?? '127.0.0.1'
}

/** Connecting a socket for datagrams sends nothing; the kernel only picks a route. */
async function addressTowards(host: string): Promise<string | undefined> {
  try {
    const { address, family } = await lookup(host)
    const socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.connect(9, address, () => resolve())
      })
      const own = socket.address().address
      return wildcards.has(own) ? undefined : own
    } finally {
      socket.close()
    }
  } catch (cause) {
    // No such name, or no route: whoever connects there will say so.
    if ((cause as NodeJS.ErrnoException).code !== undefined) return undefined
    throw cause
  }
}

function firstAddress(): string | undefined {
  const all = Object.values(networkInterfaces()).flatMap(list => list ?? [])
  const outer = all.filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
  const [first] = [...outer.filter(({ family }) => family === 'IPv4'), ...outer]
  return first?.address
}
