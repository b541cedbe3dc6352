import { assert } from '../errors.ts'

/** The worker as one JavaScript text. `build.ts` puts a module with the finished text in place. */
export async function workerSource(): Promise<string> {
  const built = await Bun.build({
    entrypoints: [new URL('./worker.ts', import.meta.url).pathname],
    target: 'bun',
  })
  const [artifact] = built.outputs
  assert(artifact !== undefined, 'a build without errors has one output')
  return artifact.text()
}
