/** Calls of functions whose code is on another node: held back until it is here. */
import { expect, test } from 'bun:test'
import { FndError } from '../../src/errors.ts'
import type { CallAsker } from '../../src/exec/active-call.ts'
import type { FnSpec } from '../../src/exec/driver.ts'
import { Invocations } from '../../src/exec/invocations.ts'
import type { FnRoute } from '../../src/store/state.ts'

const routeOf = (id: string, image: string) => ({ app: {}, fn: { id, image } }) as FnRoute

function asker(signal = new AbortController().signal): CallAsker {
  return {
    headers: '',
    body: null,
    length: undefined,
    caller: { signal },
    answered: () => undefined,
    failed: () => undefined,
  }
}

interface Limits {
  readonly heldMax?: number
  readonly waitMs?: number
  readonly instancesMin?: number
}

/** Invocations over a runner that writes down what it is told, and code that comes when asked. */
function world({ heldMax = 10, waitMs = 60_000, instancesMin = 0 }: Limits = {}) {
  const told: string[] = []
  const here = new Set<string>()
  const fetches = new Map<string, ReturnType<typeof Promise.withResolvers<void>>>()
  const specOf = ({ fn }: FnRoute): FnSpec => {
    const width = here.has(fn.image) ? 100 : 1
    return { key: `${fn.image}x${width}`, fnId: fn.id, instancesMin } as FnSpec
  }
  const invocations = new Invocations({
    specOf,
    runner: {
      call: spec => void told.push(`call ${spec.key}`),
      refuse: (_spec, _asker, error) => void told.push(`refuse ${error.code}`),
      define: spec => void told.push(`define ${spec.key}`),
      retire: key => void told.push(`retire ${key}`),
    },
    code: {
      isHere: ({ fn }) => here.has(fn.image),
      bring: ({ fn }) => {
        const known = fetches.get(fn.image) ?? Promise.withResolvers<void>()
        fetches.set(fn.image, known)
        return known.promise
      },
      heldMax,
      waitMs,
    },
  })
  const arrive = async (image: string) => {
    here.add(image)
    invocations.codeArrived()
    fetches.get(image)?.resolve()
    await Bun.sleep(0)
  }
  return { told, here, fetches, invocations, arrive }
}

test('calls wait for the code, and run as the code says', async () => {
  const { told, invocations, arrive } = world()
  const route = routeOf('f', 'a')
  invocations.call(route, asker())
  invocations.call(route, asker())
  expect(told).toEqual([])
  expect(invocations.held).toBe(2)
  await arrive('a')
  expect(told).toEqual(['define ax100', 'call ax100', 'call ax100'])
  expect(invocations.held).toBe(0)
  invocations.call(route, asker())
  expect(told.at(-1)).toBe('call ax100')
})

test('a new version retires the old one at once, though its own code is not here', async () => {
  const { told, here, invocations, arrive } = world()
  here.add('a')
  invocations.call(routeOf('f', 'a'), asker())
  invocations.routeChanged('f', routeOf('f', 'b'))
  expect(told).toEqual(['define ax100', 'call ax100', 'retire ax100'])
  await arrive('b')
  expect(told.at(-1)).toBe('define bx100')
})

test('what is asked of a function without its code leaves no trace in the pool', () => {
  const { told, invocations } = world()
  expect(invocations.specOf(routeOf('f', 'a')).key).toBe('ax1')
  invocations.routeChanged('f', routeOf('f', 'a'))
  expect(told).toEqual([])
})

test('instances that are always to be there start when the code comes', async () => {
  const { told, invocations, arrive } = world({ instancesMin: 1 })
  invocations.routeChanged('f', routeOf('f', 'a'))
  invocations.routeChanged('g', routeOf('g', 'a'))
  invocations.routeChanged('g', undefined)
  expect(told).toEqual([])
  await arrive('a')
  expect(told).toEqual(['define ax100'])
})

test('a function that changed meanwhile is not taken back by a call that waited', async () => {
  const { told, invocations, arrive } = world()
  invocations.call(routeOf('f', 'a'), asker())
  invocations.routeChanged('f', routeOf('f', 'b'))
  await arrive('b')
  await arrive('a')
  expect(told).toEqual(['define bx100', 'call ax100'])
})

test('calls end with the reason why the code cannot be had', async () => {
  const { told, fetches, invocations } = world()
  invocations.call(routeOf('f', 'a'), asker())
  fetches.get('a')?.reject(new FndError('bundle-unreachable'))
  await Bun.sleep(0)
  expect(told).toEqual(['refuse bundle-unreachable'])
})

test('they are bounded in number and in time, and end when their caller leaves', async () => {
  const many = world({ heldMax: 1 })
  many.invocations.call(routeOf('f', 'a'), asker())
  many.invocations.call(routeOf('f', 'a'), asker())
  expect(many.told).toEqual(['refuse busy'])

  const slow = world({ waitMs: 1 })
  slow.invocations.call(routeOf('f', 'a'), asker())
  while (slow.invocations.held > 0) await Bun.sleep(1)
  expect(slow.told).toEqual(['refuse busy'])

  const left = world()
  const caller = new AbortController()
  left.invocations.call(routeOf('f', 'a'), asker(caller.signal))
  caller.abort()
  await left.arrive('a')
  expect(left.told).toEqual(['define ax100', 'refuse client-gone'])
})
