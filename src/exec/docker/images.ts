/** The images in the daemon. */
import { FndError } from '../../errors.ts'
import type { FnSpec } from '../driver.ts'
import { DockerRefusal, type Engine } from './engine.ts'

export class Images {
  readonly #engine: Engine

  constructor(options: { readonly engine: Engine }) {
    this.#engine = options.engine
  }

  /** Rejects with `FndError` when the daemon has no such image. */
  async ensure(spec: FnSpec): Promise<{ readonly id: string }> {
    try {
      const found = await this.#engine.ask(docker => docker.getImage(spec.image).inspect())
      return { id: found.Id }
    } catch (cause) {
      if (!(cause instanceof DockerRefusal)) throw cause
      throw new FndError('image-driver-missing', { detail: `'${spec.image}': ${cause.message}` })
    }
  }
}
