/** One seed for the random tests of a file, printed so that `FND_SEED` can replay a failure. */
export const seed = Number(process.env.FND_SEED ?? Math.floor(Math.random() * 2 ** 31))
console.log(`seed ${seed} (replay with FND_SEED=${seed})`)
