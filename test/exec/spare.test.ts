import { expect, test } from 'bun:test'
import { SyscallError } from '../../src/exec/libc.ts'
import { Spares } from '../../src/exec/spare.ts'
import { until } from '../e2e/fnd.ts'

test('a host that refuses processes costs spares, not the server', async () => {
  let tries = 0
  const told: string[] = []
  const spares = new Spares({
    count: 2,
    start: () => {
      tries += 1
      throw new SyscallError('clone', -11)
    },
    onGivenUp: detail => told.push(detail),
  })
  await until(() => told.length > 0, 'giving up')
  expect(tries).toBe(3)
  expect(told).toEqual(['clone: EAGAIN'])
  expect(spares.claim()).toBeUndefined()
  await spares.close()
})
