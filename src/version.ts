import pkg from '../package.json' with { type: 'json' }

/** Stamped by `build.ts`; a run from source has neither. */
declare const FND_VERSION: string | undefined
declare const FND_COMMIT: string | undefined

export const version: string = typeof FND_VERSION === 'string' ? FND_VERSION : pkg.version
export const commit: string = typeof FND_COMMIT === 'string' ? FND_COMMIT : 'dev'
