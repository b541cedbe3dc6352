import { afterAll } from 'bun:test'
import { testDriver } from '../contract/driver.ts'
import { Place } from './process-driver.ts'

const place = new Place()
afterAll(() => place.remove())

for (const levelMax of ['namespaces', 'process'] as const) {
  for (const spares of ['0', '2']) {
    testDriver({
      name: `process, ${levelMax}, ${spares} spares`,
      image: place.fixture('contract-fn.js'),
      missingImage: 'bundle:sha256-missing',
      memoryMb: 128,
      open: ({ output, startTimeoutMs }) =>
        place.open({
          output,
          levelMax,
          env: {
            FND_SPARE_WORKERS: spares,
            FND_HOT_START_TIMEOUT_MSECS: String(startTimeoutMs),
          },
        }),
    })
  }
}
