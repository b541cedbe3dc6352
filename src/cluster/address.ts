/** Where other nodes reach this one, as far as it can be told without asking anybody. */
import { readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { formatEndpoint, parseEndpoint } from './hello.ts'

export interface AddressOptions {
  /** `--advertise`: `host` or `host:port`; `''` without one. */
  readonly advertise: string
  /** Where the peer port listens. */
  readonly host: string
  readonly port: number
}

/** `host:port`. A node that listens everywhere names the address that leads to the outside. */
export function advertisedAddress({ advertise, host, port }: AddressOptions): string {
  const given = advertise === '' ? undefined : parseEndpoint(advertise, port)
  if (given !== undefined) return formatEndpoint(given)
  const isEverywhere = host === '0.0.0.0' || host === '::'
  return formatEndpoint({ host: isEverywhere ? outwardHost() : host, port })
}

/** The loopback's on a machine without a network. */
function outwardHost(): string {
  const interfaces = networkInterfaces()
  const name = defaultInterface()
  const preferred = name === undefined ? [] : (interfaces[name] ?? [])
  const all = [...preferred, ...Object.values(interfaces).flatMap(one => one ?? [])]
  const outward = all.filter(
    ({ internal, address }) => !internal && !/^(fe80|169\.254)[:.]/i.test(address),
  )
  const found = outward.find(({ family }) => family === 'IPv4') ?? outward[0]
  return found?.address ?? '127.0.0.1'
}

/** The interface of the default route, so that bridges of containers are not taken for it. */
function defaultInterface(): string | undefined {
  let table: string
  try {
    table = readFileSync('/proc/self/net/route', 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
  const routes = table.split('\n').map(line => line.split('\t'))
  return routes.find(([, destination]) => destination === '00000000')?.[0]
}
