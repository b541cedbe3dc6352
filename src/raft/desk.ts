/**
 * Where small records take shape and are read from. A view of an array makes an object of its
 * buffer too, which is more than a small record needs otherwise, and this is done for every write.
 * Nothing stays here between two turns.
 */
export const desk = new Uint8Array(16 * 1024)
export const deskView = new DataView(desk.buffer)
