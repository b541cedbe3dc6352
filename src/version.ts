import pkg from '../package.json' with { type: 'json' }

/** Stamped by `build.ts`; a run from source has neither. */
declare const FND_VERSION: string | undefined
declare const FND_COMMIT: string | undefined
declare const FND_COMMAND_VERSION: number | undefined

export const version: string = typeof FND_VERSION === 'string' ? FND_VERSION : pkg.version
export const commit: string = typeof FND_COMMIT === 'string' ? FND_COMMIT : 'dev'
/**
 * Of a build that stands for the next version of fnd, so that upgrades can be tried before there is
 * one (`build.ts --command-version`); else undefined.
 */
export const commandVersionGiven: number | undefined =
  typeof FND_COMMAND_VERSION === 'number' ? FND_COMMAND_VERSION : undefined
